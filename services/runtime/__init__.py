"""What every process needs in order to be a process: settings, logs, metrics, calls, life and death.

It owns no product rule and imports no service. Import the modules, not this package.
"""

import os

# gRPC's C core writes to stderr by itself, in a form of its own, and reads this when it is imported. So it is set here,
# before anything of this package can import it.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
