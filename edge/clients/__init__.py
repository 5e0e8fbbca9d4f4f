"""The edge's way to the services: stubs → the edge's values, gRPC failures → our errors. Only here are generated types
known."""

from edge.clients.chat import ChatClient, Outgoing
from edge.clients.topics import TopicCall, TopicListener, WatchRequest

__all__ = ["ChatClient", "Outgoing", "TopicCall", "TopicListener", "WatchRequest"]
