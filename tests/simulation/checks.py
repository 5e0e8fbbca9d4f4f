"""What must be true after a run, from what the clients saw and what is durable. Pure; each answers with sentences."""

from collections import Counter
from collections.abc import Iterable
from itertools import pairwise

from services.chat.model import ConversationId, UserId, WatermarkKind
from tests.simulation.record import Record
from tests.simulation.truth import Truth, key_of


def check(record: Record, truth: Truth) -> list[str]:
    """Everything that is wrong; empty for a run in which all held."""
    problems = list(record.problems)
    problems.extend(_log_has_no_hole(truth))
    problems.extend(_each_key_is_one_message(truth))
    problems.extend(_acked_is_durable(record, truth))
    problems.extend(_nothing_is_invented(record, truth))
    problems.extend(_what_may_be_sent_is_acked(record))
    problems.extend(_acked_before_sent_is_smaller(record))
    problems.extend(_pipelined_order_is_kept(record, truth))
    problems.extend(_watchers_saw_the_log(record, truth))
    problems.extend(_marks_are_kept(record, truth))
    return problems


def _log_has_no_hole(truth: Truth) -> Iterable[str]:
    heads: Counter[ConversationId] = Counter()
    for message in truth.history:
        heads[message.conversation_id] += 1
        if message.seq != heads[message.conversation_id]:
            yield f"{message.message_id} became durable where {heads[message.conversation_id]} was next"
            return  # what follows is off by as much


def _each_key_is_one_message(truth: Truth) -> Iterable[str]:
    for key, count in Counter(map(key_of, truth.history)).items():
        if count > 1:
            yield f"{key.client_message_id} of {key.sender_id} is stored {count} times in {key.conversation_id}"


def _acked_is_durable(record: Record, truth: Truth) -> Iterable[str]:
    for ack in record.acks:
        stored = truth.logs[ack.draft.conversation_id].get(ack.message.seq)
        if stored != ack.message:
            yield f"{ack.draft.client_message_id} was acked as {ack.message.message_id}, where now is {stored}"
        elif not stored.is_repeat_of(ack.draft) or stored.client_message_id != ack.draft.client_message_id:
            yield f"{ack.draft.client_message_id} was acked with another message: {stored}"


def _nothing_is_invented(record: Record, truth: Truth) -> Iterable[str]:
    asked = {
        (draft.conversation_id, draft.sender_id, draft.client_message_id, draft.content) for draft in record.drafts
    }
    for message in truth.history:
        if (message.conversation_id, message.sender_id, message.client_message_id, message.content) not in asked:
            yield f"{message.message_id} is stored, and nobody may have sent it: {message}"


def _what_may_be_sent_is_acked(record: Record) -> Iterable[str]:
    acked = {ack.draft for ack in record.acks}
    for draft in record.drafts:
        if draft not in acked:
            yield f"{draft.client_message_id} was never acked"
    for draft in acked.difference(record.drafts):
        yield f"{draft.client_message_id} was acked with a body, or by a sender, that had to be refused"


def _acked_before_sent_is_smaller(record: Record) -> Iterable[str]:
    for conversation in {ack.draft.conversation_id for ack in record.acks}:
        acks = [ack for ack in record.acks if ack.draft.conversation_id == conversation]
        by_answer = sorted(acks, key=lambda ack: ack.acked_s)
        answered, highest = 0, 0
        for ack in sorted(acks, key=lambda ack: ack.asked_s):
            while by_answer[answered].acked_s < ack.asked_s:
                highest = max(highest, by_answer[answered].message.seq)
                answered += 1
            if ack.message.seq <= highest:
                yield f"{ack.message.message_id} was asked for after {highest} had been acked"


def _pipelined_order_is_kept(record: Record, truth: Truth) -> Iterable[str]:
    for (conversation, user), drafts in record.sent.items():
        place = {draft.client_message_id: index for index, draft in enumerate(drafts)}
        stored = [
            message.client_message_id
            for _, message in sorted(truth.logs[conversation].items())
            if message.sender_id == user
        ]
        if any(place.get(one, 0) > place.get(next_, 0) for one, next_ in pairwise(stored)):
            yield f"{user} sent {[draft.client_message_id for draft in drafts]}, and stored is {stored}"


def _watchers_saw_the_log(record: Record, truth: Truth) -> Iterable[str]:
    for name, (conversation, start, seen) in record.seen.items():
        log = truth.logs[conversation]
        wrong = [message for message in seen if log.get(message.seq) != message]
        if wrong:
            yield f"{name} was given {wrong[0]}, where the log has {log.get(wrong[0].seq)}"
        if start + len(seen) < len(log):
            yield f"{name} never got beyond {start + len(seen)} of {len(log)}"


def _marks_are_kept(record: Record, truth: Truth) -> Iterable[str]:
    highest: dict[tuple[ConversationId, UserId, WatermarkKind], int] = {}
    for mark in record.marks:
        key = (mark.conversation_id, mark.user_id, mark.kind)
        highest[key] = max(highest.get(key, 0), mark.seq)
    for (conversation, user, kind), seq in highest.items():
        kept = truth.watermarks[conversation, user]
        reached = kept.read_seq if kind is WatermarkKind.SEEN else kept.delivered_seq
        if reached < seq:
            yield f"{user} was told that {kind} {seq} is durable, and it is {reached}"
    for user, before, after in truth.moved_back:
        yield f"the watermarks of {user} went back from {before} to {after}"
