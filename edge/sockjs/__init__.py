"""SockJS 0.3: a client's way to STOMP where a WebSocket cannot be had. `endpoint` mounts it, `app` builds it."""

from edge.sockjs.endpoint import SockJsEndpoint

__all__ = ["SockJsEndpoint"]
