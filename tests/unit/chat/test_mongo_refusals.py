"""What an interrupted `insert_many` means: only a duplicate that the majority has is a refusal by an index."""

from typing import Any

import pytest
from pymongo.errors import BulkWriteError, OperationFailure

from services.chat.store import AppendConflict, Appended
from services.chat.store.mongo.messages import appended_before

Error = dict[str, Any]

DUPLICATE: Error = {"index": 3, "code": 11000, "keyPattern": {"_id": 1}, "op": {"content": "between us"}}
TIMED_OUT: Error = {"index": 3, "code": 50, "op": {"content": "between us"}}
NOT_REPLICATED: Error = {"code": 64, "errmsg": "waiting for replication timed out"}


def failure_of(*, write: list[Error], concern: list[Error]) -> BulkWriteError:
    return BulkWriteError({"writeErrors": write, "writeConcernErrors": concern, "nInserted": 3})


def test_a_duplicate_tells_how_many_are_stored_and_which_index_refused() -> None:
    other = {**DUPLICATE, "keyPattern": {"conversationId": 1, "senderId": 1, "clientMessageId": 1}}

    by_number = appended_before(failure_of(write=[DUPLICATE], concern=[]))
    by_key = appended_before(failure_of(write=[other], concern=[]))

    assert by_number == Appended(3, AppendConflict(seq_taken=True))
    assert by_key == Appended(3, AppendConflict(seq_taken=False))


@pytest.mark.parametrize(
    ("write", "concern", "code"),
    [([DUPLICATE], [NOT_REPLICATED], 64), ([], [NOT_REPLICATED], 64), ([TIMED_OUT], [], 50)],
    ids=["not known to last", "replication", "time"],
)
def test_anything_else_is_a_failure_whose_text_has_no_message_in_it(
    write: list[Error], concern: list[Error], code: int
) -> None:
    with pytest.raises(OperationFailure) as failure:
        appended_before(failure_of(write=write, concern=concern))

    assert failure.value.code == code
    assert "between us" not in str(failure.value)
