"""Real MongoDB, Redis and RabbitMQ servers, each private to its caller.

Every server listens on 127.0.0.1 only, on a port of its own, keeps everything in one directory and is stopped
by pid; servers of the system and of other checkouts are neither used nor disturbed. `start` returns when the
server answers over the wire. A restart keeps port and data. The API is synchronous: fixtures and the stack
runner use it from plain code, a test may call it from a coroutine (it blocks the loop for as long as it
takes).
"""

from scripts.processes import ProcessError, ProcessIdentity
from scripts.servers.base import LocalServer
from scripts.servers.mongod import Mongod, MongoReplicaSet
from scripts.servers.rabbitmq import RabbitNode
from scripts.servers.redis import RedisServer

__all__ = [
    "LocalServer",
    "MongoReplicaSet",
    "Mongod",
    "ProcessError",
    "ProcessIdentity",
    "RabbitNode",
    "RedisServer",
]
