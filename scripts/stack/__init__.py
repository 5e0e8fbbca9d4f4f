"""The full stack on one machine: real servers and one process per service, privately.

`python -m scripts.stack up` for people, `Stack` for tests and the load generator: the same code.
"""

from scripts.stack.service import Kind, Service
from scripts.stack.stack import Stack
from scripts.stack.state import ProcessState, StackState, read_state

__all__ = ["Kind", "ProcessState", "Service", "Stack", "StackState", "read_state"]
