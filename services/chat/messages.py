"""Sending: from drafts to numbered, durable messages.

Owns the numbering, the idempotency and the group commit. Three things make it right, and none of them is care:
a message's id is its conversation and seq, and unique; (conversation, sender, clientMessageId) is unique; a batch is
inserted in order and stops where an index refuses. A replica has one commit of a conversation under way, so the number
after the last stored one is always the next: no hole. Whatever a cache here says may be wrong; the indexes then refuse,
and the writer looks again.

Answers come only after the commit. What follows from a message (fan-out, metadata, notifications) is handed to
`Committed` in commit order.
"""

import asyncio
from collections import OrderedDict, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import uuid_utils

from services.chat.errors import ClientMessageIdReused, NotAMember, StoreUnavailable
from services.chat.members import Members
from services.chat.model import ConversationId, Draft, Message, Seq
from services.chat.store import IdempotencyKey, MessageLog, OutboxEntry
from services.runtime.batching import LaneBatcher, QueueFull
from services.runtime.clock import Clock
from services.runtime.errors import Internal, ServiceError
from services.runtime.log import logger
from services.runtime.metrics import Metrics

# Measured with mongod 6.0 (design.md): the cost of a message falls until batches of about 300.
_MAX_BATCH = 300
# Two commits keep MongoDB's journal and this process busy in turn; more only make batches smaller.
_MAX_COMMITS = 2
# About ten seconds of work at full load, and at most 16 KiB each.
_MAX_WAITING = 50_000
_MAX_BATCH_BYTES = 4 << 20
# A conflict is rare (two replicas at once, or a repeat); twenty in a row are a fault, not bad luck.
_MAX_ATTEMPTS = 20
_MAX_HEADS = 200_000
# Repeats come soon after the original (a reconnect, a retried call); later ones cost one look-up.
_MAX_KNOWN_BYTES = 16 << 20
_KNOWN_OVERHEAD_BYTES = 600
_RETRY_AFTER_MS = 500

_log = logger(__name__)


@dataclass(frozen=True, slots=True)
class Sent:
    """A durable message; `repeat` when it was stored before this request."""

    message: Message
    repeat: bool


@dataclass(frozen=True, slots=True)
class Commit:
    """Messages that became durable together, with the outbox entry that names them. A commit without an entry
    passes on what a repeat found: its followers may or may not have seen it."""

    messages: Sequence[Message]
    entry_id: str | None


class Committed(Protocol):
    """Told of each commit, in order within a conversation. Does not block and does not raise."""

    def committed(self, commit: Commit) -> None: ...

    def uncertain(self, conversation_ids: Sequence[ConversationId]) -> None:
        """A write's outcome is not known: messages may be in these logs that nobody was told of."""


@dataclass(slots=True)
class _Request:
    """One call of `send`: its answers, and how many are still missing."""

    outcomes: list[Sent | ServiceError | None]
    missing: int
    done: asyncio.Future[None]
    # Conversations in which a draft of this request was given up: a later draft must not be stored before it.
    given_up: set[ConversationId] = field(default_factory=set)


@dataclass(slots=True)
class _Pending:
    draft: Draft
    request: _Request
    index: int
    # Further askers for the very same message in one batch.
    twins: "list[_Pending]" = field(default_factory=list)

    def settle(self, outcome: Sent | ServiceError) -> None:
        request = self.request
        if request.outcomes[self.index] is not None:
            return
        request.outcomes[self.index] = outcome
        request.missing -= 1
        if not request.missing and not request.done.done():
            request.done.set_result(None)


class Messages:
    """The writer of the message log in this replica."""

    def __init__(self, log: MessageLog, members: Members, followers: Committed, clock: Clock, metrics: Metrics) -> None:
        self._store = log
        self._members = members
        self._followers = followers
        self._clock = clock
        # The last seq that this replica knows to be stored. A guess: the unique id decides.
        self._heads: OrderedDict[ConversationId, Seq] = OrderedDict()
        self._known: OrderedDict[IdempotencyKey, Message] = OrderedDict()
        self._known_bytes = 0
        self._batcher: LaneBatcher[_Pending, None] = LaneBatcher(
            self._commit,
            failed=self._commit_failed,
            lane_of=lambda pending: pending.draft.conversation_id,
            group_of=lambda _: None,
            max_items=_MAX_BATCH,
            max_weight=_MAX_BATCH_BYTES,
            weigh=lambda pending: len(pending.draft.content),
            max_waiting=_MAX_WAITING,
            max_in_flight=_MAX_COMMITS,
        )
        self._batch_sizes = metrics.histogram(
            "chat_commit_messages",
            "Messages in one commit to the store.",
            buckets=(1, 2, 4, 8, 16, 32, 64, 128, 300),
        )
        self._stored = metrics.counter("chat_messages_stored", "Messages made durable by this replica.")
        self._repeats = metrics.counter("chat_messages_repeated", "Sends that were answered with an earlier message.")
        self._conflicts = metrics.counter("chat_commit_conflicts", "Commits that an index stopped.", labels=("index",))
        metrics.gauge("chat_commit_waiting", "Messages that wait for a commit.").set_function(
            lambda: self._batcher.waiting
        )

    async def send(self, drafts: Sequence[Draft]) -> Sequence[Sent | ServiceError]:
        """Stores each draft, in this order within a conversation. One outcome for each, at its place.

        A refused draft does not hold up the others. Returns when every one is durable or refused; cancelling the
        caller does not stop the commit.
        """
        request = _Request([None] * len(drafts), len(drafts), asyncio.get_running_loop().create_future())
        refused = await self._find_refused(drafts)
        for index, draft in enumerate(drafts):
            pending = _Pending(draft, request, index)
            refusal = refused.get((draft.conversation_id, draft.sender_id)) if refused else None
            if refusal is not None:
                pending.settle(refusal)
                continue
            try:
                self._batcher.submit(pending)
            except QueueFull as full:
                pending.settle(full)
        await request.done
        return [outcome for outcome in request.outcomes if outcome is not None]

    async def close(self) -> None:
        """Commits what was accepted, then takes nothing more."""
        await self._batcher.close()

    async def _find_refused(self, drafts: Sequence[Draft]) -> dict[tuple[str, str], ServiceError]:
        unknown = {
            (draft.conversation_id, draft.sender_id)
            for draft in drafts
            if not self._members.find_cached(draft.conversation_id, draft.sender_id)
        }
        refused: dict[tuple[str, str], ServiceError] = {}
        if not unknown:
            return refused
        asked = list(unknown)
        answers = await asyncio.gather(
            *(self._members.are_members(conversation, (user,)) for conversation, user in asked),
            return_exceptions=True,
        )
        for pair, answer in zip(asked, answers, strict=True):
            if isinstance(answer, ServiceError):
                refused[pair] = answer
            elif isinstance(answer, BaseException):
                raise answer
            elif not answer:
                refused[pair] = NotAMember()
        return refused

    # ---- One commit.

    async def _commit(self, _group: None, batch: list[_Pending]) -> None:
        rest = _join_twins(self._give_up_behind(batch))
        try:
            for _ in range(_MAX_ATTEMPTS):
                rest = await self._append(self._settle_known(rest))
                if not rest:
                    return
        except StoreUnavailable as error:
            self._give_up(rest, error)
            return
        _log.error("commit_kept_conflicting", messages=len(rest), attempts=_MAX_ATTEMPTS)
        self._give_up(rest, StoreUnavailable(retry_after_ms=_RETRY_AFTER_MS))

    async def _append(self, rest: list[_Pending]) -> list[_Pending]:
        """Numbers and stores what it can; answers with what is still to do."""
        if not rest:
            return rest
        messages = await self._number(rest)
        entry = OutboxEntry(str(uuid_utils.uuid7()), messages[0].sent_at_ms, _ranges(messages))
        appended = await self._store.append(messages, entry)
        self._batch_sizes.observe(len(messages))
        stored = messages[: appended.stored]
        for pending, message in zip(rest, stored, strict=False):
            self._heads[message.conversation_id] = message.seq
            self._remember(message)
            self._settle(pending, message, repeat=False)
        while len(self._heads) > _MAX_HEADS:
            self._heads.popitem(last=False)
        if stored:
            self._stored.inc(len(stored))
            self._followers.committed(Commit(stored, entry.entry_id))
        rest = rest[appended.stored :]
        conflict = appended.refused_by
        if conflict is None:
            return rest
        self._conflicts.labels("number" if conflict.seq_taken else "key").inc()
        if conflict.seq_taken:
            self._heads.pop(rest[0].draft.conversation_id, None)
        else:  # a repeat: look up all that are left at once, they tend to come together
            for message in (await self._store.find_by_keys([_key(pending.draft) for pending in rest])).values():
                self._remember(message)
        return rest

    def _settle_known(self, batch: list[_Pending]) -> list[_Pending]:
        """Answers the repeats among `batch`, and passes their messages on again: whoever stored them may have died
        before doing so."""
        rest: list[_Pending] = []
        repeats: list[Message] = []
        for pending in batch:
            known = self._known.get(_key(pending.draft))
            if known is None:
                rest.append(pending)
            else:
                repeats.append(known)
                self._settle(pending, known, repeat=True)
        if repeats:
            self._followers.committed(Commit(repeats, None))
        return rest

    async def _number(self, rest: Sequence[_Pending]) -> list[Message]:
        heads: dict[ConversationId, Seq] = {}
        unknown: set[ConversationId] = set()
        for pending in rest:
            conversation = pending.draft.conversation_id
            head = self._heads.get(conversation)
            if head is None:
                unknown.add(conversation)
            else:
                heads[conversation] = head
        if unknown:
            heads.update(await self._store.find_heads(list(unknown)))
        now = self._clock.time_ms()
        messages = []
        for pending in rest:
            draft = pending.draft
            seq = heads[draft.conversation_id] = Seq(heads[draft.conversation_id] + 1)
            messages.append(
                Message(
                    draft.conversation_id,
                    seq,
                    draft.sender_id,
                    draft.client_message_id,
                    draft.content,
                    draft.type,
                    now,
                )
            )
        return messages

    def _settle(self, pending: _Pending, message: Message, *, repeat: bool) -> None:
        if not repeat and not pending.twins:  # nearly all
            pending.settle(Sent(message, repeat=False))
            return
        for each in (pending, *pending.twins):
            if not message.is_repeat_of(each.draft):
                each.settle(ClientMessageIdReused())
                continue
            if repeat or each is not pending:
                self._repeats.inc()
            each.settle(Sent(message, repeat=repeat or each is not pending))

    def _give_up(self, rest: Sequence[_Pending], error: ServiceError) -> None:
        conversations = list({pending.draft.conversation_id for pending in rest})
        for conversation in conversations:
            self._heads.pop(conversation, None)
        for pending in rest:
            for each in (pending, *pending.twins):
                each.request.given_up.add(each.draft.conversation_id)
                each.settle(error)
        self._followers.uncertain(conversations)

    def _give_up_behind(self, batch: Sequence[_Pending]) -> list[_Pending]:
        """The batch without what stands behind a given-up draft of its own request: the caller sends both again, in
        their order."""
        rest = []
        for pending in batch:
            if pending.draft.conversation_id in pending.request.given_up:
                pending.settle(StoreUnavailable(retry_after_ms=_RETRY_AFTER_MS))
            else:
                rest.append(pending)
        return rest

    def _commit_failed(self, batch: Sequence[_Pending], error: Exception) -> None:
        _log.error("commit_failed", messages=len(batch), exc_info=error)
        self._give_up(batch, Internal())

    def _remember(self, message: Message) -> None:
        key = IdempotencyKey(message.conversation_id, message.sender_id, message.client_message_id)
        if key in self._known:
            return
        self._known[key] = message
        self._known_bytes += len(message.content) + _KNOWN_OVERHEAD_BYTES
        while self._known_bytes > _MAX_KNOWN_BYTES:
            _, dropped = self._known.popitem(last=False)
            self._known_bytes -= len(dropped.content) + _KNOWN_OVERHEAD_BYTES


def _key(draft: Draft) -> IdempotencyKey:
    return IdempotencyKey(draft.conversation_id, draft.sender_id, draft.client_message_id)


def _join_twins(batch: Sequence[_Pending]) -> list[_Pending]:
    """The batch without those whose key stands in it already: they get the answer of the first."""
    first: dict[IdempotencyKey, _Pending] = {}
    for pending in batch:
        kept = first.setdefault(_key(pending.draft), pending)
        if kept is not pending:
            kept.twins.append(pending)
    return list(first.values())


def _ranges(messages: Sequence[Message]) -> tuple[tuple[ConversationId, Seq, Seq], ...]:
    seqs: defaultdict[ConversationId, list[Seq]] = defaultdict(list)
    for message in messages:
        seqs[message.conversation_id].append(message.seq)
    return tuple((conversation, first[0], first[-1]) for conversation, first in seqs.items())
