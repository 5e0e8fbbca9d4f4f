"""What happens around every call that a server of ours answers.

In this order: the correlation id is taken over or made; a unary call without a deadline is refused, as nobody
would ever end it; the handler runs; its `ServiceError` becomes the status that `errors` describes; anything
else it raises is a bug, logged once with its traceback and told to the client as INTERNAL without a word of
detail; the call is counted and timed. A cancellation passes through untouched.

One interceptor does all this because each one costs every call a coroutine.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import grpc
from structlog.typing import FilteringBoundLogger

from services.runtime.clock import Clock
from services.runtime.errors import Internal, InvalidArgument, ServiceError, to_status
from services.runtime.log import CORRELATION_HEADER, bind_correlation
from services.runtime.metrics import Metrics

# No deadline is None with this grpcio (1.85) and was 9.2e18 s with others; a client cannot ask for more than
# 99,999,999 hours.
_NO_DEADLINE_S: Final = 1e12

DEADLINE_FREE: Final = ("grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection")

Context = grpc.aio.ServicerContext[Any, Any]
if TYPE_CHECKING:
    Handler = grpc.RpcMethodHandler[Any, Any]
else:
    Handler = grpc.RpcMethodHandler  # the class itself cannot be subscripted


class NoDeadline(InvalidArgument):
    reason = "NO_DEADLINE"
    template = "{method} needs a deadline: pass timeout= with the call"


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Wraps each method once, at its first call."""

    def __init__(self, *, metrics: Metrics, clock: Clock, logger: FilteringBoundLogger) -> None:
        self._clock = clock
        self._log = logger
        self._wrapped: dict[str, tuple[Handler, Handler]] = {}
        self._calls = metrics.counter("rpc_server_calls", "Calls answered, by method and gRPC code", ("method", "code"))
        self._seconds = metrics.histogram("rpc_server_seconds", "Time to answer a call", ("method",))

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        handler = await continuation(handler_call_details)
        if handler is None:  # UNIMPLEMENTED; not counted, or strangers could make labels
            return None
        method = handler_call_details.method
        known = self._wrapped.get(method)
        if known is None or known[0] is not handler:
            known = self._wrapped[method] = (handler, self._wrap(method, handler))
        return known[1]

    def _wrap(self, method: str, handler: Handler) -> Handler:
        name = method.lstrip("/")
        if handler.response_streaming:
            stream = self._streaming(name, handler.stream_stream or handler.unary_stream)
            make: Any = (
                grpc.stream_stream_rpc_method_handler
                if handler.request_streaming
                else grpc.unary_stream_rpc_method_handler
            )
            return _handler(make, stream, handler)
        if handler.request_streaming:
            answer = self._unary(name, handler.stream_unary, needs_deadline=False)
            return _handler(grpc.stream_unary_rpc_method_handler, answer, handler)
        needs_deadline = not name.startswith(DEADLINE_FREE)
        answer = self._unary(name, handler.unary_unary, needs_deadline=needs_deadline)
        return _handler(grpc.unary_unary_rpc_method_handler, answer, handler)

    def _unary(self, name: str, inner: Any, *, needs_deadline: bool) -> Callable[[Any, Context], Awaitable[Any]]:
        async def answer(request: Any, context: Context) -> Any:
            async with self._around(name, context):
                if needs_deadline and remaining_s(context) is None:
                    raise NoDeadline(method=name)
                return await inner(request, context)

        return answer

    def _streaming(self, name: str, inner: Any) -> Callable[[Any, Context], Awaitable[None]]:
        async def answer(request: Any, context: Context) -> None:
            async with self._around(name, context):
                produced = inner(request, context)
                if not hasattr(produced, "__aiter__"):  # the handler writes to the context itself
                    await produced
                    return
                async with aclosing(produced) as responses:
                    async for response in responses:
                        await context.write(response)

        return answer

    @asynccontextmanager
    async def _around(self, name: str, context: Context) -> AsyncIterator[None]:
        started = self._clock.monotonic()
        bind_correlation(_correlation_of(context))
        code = "CANCELLED"  # stays so when the handler is cancelled
        try:
            yield
            code = _code_name(context.code())
        except grpc.aio.AbortError:
            code = _code_name(context.code())
            raise
        except ServiceError as error:
            code = error.code.name
            await context.abort_with_status(to_status(error))
        except Exception:
            code = Internal.code.name
            self._log.exception("rpc_failed", method=name)
            await context.abort_with_status(to_status(Internal()))
        finally:
            self._calls.labels(name, code).inc()
            self._seconds.labels(name).observe(self._clock.monotonic() - started)


def remaining_s(context: Context) -> float | None:
    """What is left of the caller's deadline; None when it set none."""
    remaining: float | None = context.time_remaining()
    return None if remaining is None or remaining > _NO_DEADLINE_S else remaining


def _handler(make: Any, behaviour: Any, like: Handler) -> Handler:
    made: Handler = make(
        behaviour,
        request_deserializer=like.request_deserializer,
        response_serializer=like.response_serializer,
    )
    return made


def _correlation_of(context: Context) -> str | None:
    for key, value in context.invocation_metadata() or ():
        if key == CORRELATION_HEADER and isinstance(value, str):
            return value
    return None


_NAMES: Final = {code.value[0]: code.name for code in grpc.StatusCode}


def _code_name(code: object) -> str:
    """grpc.aio gives a number, a StatusCode, or None while nothing was set."""
    if isinstance(code, grpc.StatusCode):
        return code.name
    return _NAMES.get(code, "UNKNOWN") if isinstance(code, int) else "OK"
