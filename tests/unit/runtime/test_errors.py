"""Errors keep their meaning on the way to another process and back."""

import pickle

import grpc
import pytest
from google.protobuf.any_pb2 import Any as PackedAny
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped] # it has no stubs

from services.runtime import errors
from services.runtime.errors import ServiceError, from_rpc_error, to_status


class ShelfFull(errors.Conflict):
    reason = "TEST_SHELF_FULL"
    template = "shelf {shelf} holds {count} already"

    def __init__(self, shelf: str, count: int) -> None:
        super().__init__(shelf=shelf, count=count)


def received(status: grpc.Status) -> grpc.aio.AioRpcError:
    """The error that the other side raises for `status`."""
    return grpc.aio.AioRpcError(
        status.code, grpc.aio.Metadata(), grpc.aio.Metadata(*(status.trailing_metadata or ())), status.details
    )


def bare(code: grpc.StatusCode, details: str = "") -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), details)


def across(error: ServiceError) -> ServiceError:
    return from_rpc_error(received(to_status(error)))


def class_of(package: str, reason: str, base: type[ServiceError] = errors.NotFound) -> type[ServiceError]:
    """A class as another package would define it."""
    return type("Elsewhere", (base,), {"reason": reason, "__module__": f"{package}.errors", "__qualname__": reason})


def test_the_text_is_the_template_filled_with_the_fields() -> None:
    assert str(ShelfFull("a3", 9)) == "shelf a3 holds 9 already"
    assert str(errors.NotFound(what="shelf")) == "NOT_FOUND: what=shelf"
    assert str(errors.Internal()) == "INTERNAL"


def test_fields_are_text_and_cannot_be_changed() -> None:
    error = ShelfFull("a3", 9)
    assert dict(error.fields) == {"shelf": "a3", "count": "9"}
    with pytest.raises(TypeError):
        error.fields["shelf"] = "b"  # type: ignore[index] # that is the point


def test_an_error_returns_as_its_own_class_with_fields_and_text() -> None:
    error = across(ShelfFull("a3", 9))
    assert type(error) is ShelfFull
    assert dict(error.fields) == {"shelf": "a3", "count": "9"}
    assert str(error) == "shelf a3 holds 9 already"
    assert error.retry_after_ms is None


@pytest.mark.parametrize("retry_after_ms", [0, 1, 1500])
def test_the_time_to_wait_crosses_the_wire(retry_after_ms: int) -> None:
    assert across(errors.Unavailable(retry_after_ms=retry_after_ms)).retry_after_ms == retry_after_ms


@pytest.mark.parametrize(
    "cls",
    [
        errors.InvalidArgument,
        errors.TooLarge,
        errors.Unauthenticated,
        errors.Forbidden,
        errors.NotFound,
        errors.Conflict,
        errors.RateLimited,
        errors.Aborted,
        errors.Unavailable,
        errors.DeadlineExceeded,
        errors.Unimplemented,
        errors.Internal,
    ],
)
def test_every_class_of_the_tree_survives_the_wire(cls: type[ServiceError]) -> None:
    assert type(across(cls(a="b"))) is cls


def described(code: grpc.StatusCode, reason: str, domain: str = "parley", **fields: str) -> grpc.aio.AioRpcError:
    """A failure as any program may describe it on the wire."""
    packed = PackedAny()
    packed.Pack(error_details_pb2.ErrorInfo(reason=reason, domain=domain, metadata=fields))
    status = status_pb2.Status(code=code.value[0], message="m", details=[packed])
    metadata = grpc.aio.Metadata(("grpc-status-details-bin", status.SerializeToString()))
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), metadata, "m")


def test_a_reason_nobody_here_knows_gives_the_class_of_its_code() -> None:
    error = from_rpc_error(described(grpc.StatusCode.ALREADY_EXISTS, "TEST_UNKNOWN", a="b"))
    assert type(error) is errors.Conflict
    assert (error.peer_reason, dict(error.fields)) == ("TEST_UNKNOWN", {"a": "b"})


def test_a_known_reason_with_another_code_goes_by_its_code() -> None:
    error = from_rpc_error(described(grpc.StatusCode.NOT_FOUND, "TEST_SHELF_FULL"))
    assert type(error) is errors.NotFound


def test_a_reason_of_a_stranger_goes_by_its_code() -> None:
    stranger = described(grpc.StatusCode.ALREADY_EXISTS, "TEST_SHELF_FULL", domain="elsewhere.example", a="b")
    error = from_rpc_error(stranger)
    assert type(error) is errors.Conflict
    assert dict(error.fields) == {"status": "ALREADY_EXISTS"}


@pytest.mark.parametrize(
    ("code", "cls"),
    [
        (grpc.StatusCode.CANCELLED, errors.Unavailable),
        (grpc.StatusCode.UNKNOWN, errors.Internal),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, errors.RateLimited),
        (grpc.StatusCode.UNAVAILABLE, errors.Unavailable),
        (grpc.StatusCode.UNIMPLEMENTED, errors.Unimplemented),
        (grpc.StatusCode.DATA_LOSS, errors.Internal),
    ],
)
def test_a_failure_without_a_reason_goes_by_its_code(code: grpc.StatusCode, cls: type[ServiceError]) -> None:
    assert type(from_rpc_error(bare(code))) is cls


def test_every_code_but_ok_has_a_class() -> None:
    for code in grpc.StatusCode:
        if code is not grpc.StatusCode.OK:
            assert from_rpc_error(bare(code)).fields["status"] == code.name


def test_the_transports_text_is_not_shown() -> None:
    error = from_rpc_error(bare(grpc.StatusCode.UNAVAILABLE, "ipv4:10.1.2.3:5: Connection refused"))
    assert "10.1.2.3" not in str(error)


@pytest.mark.parametrize("garbage", [b"\xff\xff\xff", b""])
def test_details_that_cannot_be_read_are_as_if_absent(garbage: bytes) -> None:
    metadata = grpc.aio.Metadata(("grpc-status-details-bin", garbage))
    broken = grpc.aio.AioRpcError(grpc.StatusCode.NOT_FOUND, grpc.aio.Metadata(), metadata, "")
    assert type(from_rpc_error(broken)) is errors.NotFound


def test_two_classes_of_one_package_cannot_have_one_reason() -> None:
    class_of("services.sample", "TEST_TWICE")
    with pytest.raises(TypeError, match="one reason: TEST_TWICE"):
        type("Other", (errors.NotFound,), {"reason": "TEST_TWICE", "__module__": "services.sample.more"})


def test_two_packages_of_one_process_may_and_each_gets_its_own() -> None:
    theirs = class_of("services.first", "TEST_SHARED")
    ours = class_of("edge", "TEST_SHARED")
    status = to_status(theirs())
    assert type(from_rpc_error(received(status), package="edge")) is ours
    assert type(from_rpc_error(received(status), package="services.first")) is theirs
    assert type(from_rpc_error(received(status), package="services.second")) is errors.NotFound


def test_a_subclass_without_a_reason_of_its_own_keeps_that_of_its_parent() -> None:
    narrower = type("Narrower", (errors.Forbidden,), {"__module__": "services.runtime.narrower"})
    assert type(across(narrower())) is errors.Forbidden


def test_an_error_can_be_pickled() -> None:
    copy = pickle.loads(pickle.dumps(ShelfFull("a3", 9)))
    assert (type(copy), str(copy)) == (ShelfFull, "shelf a3 holds 9 already")
