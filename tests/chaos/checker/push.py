"""Invariant 9: pushes reach whoever is offline and has not seen it, once, and nobody else."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping

from tests.chaos.checker.finding import Finding
from tests.chaos.checker.members import Memberships
from tests.chaos.checker.reach import Reach
from tests.chaos.checker.sessions import all_sessions
from tests.chaos.checker.sights import all_attempts, stored_messages
from tests.chaos.entries import AddDevice, Mark, Pushed, Status
from tests.chaos.history import History, Op, Outcome

# failures.md: within 10 s of healing.
_PUSHED_WITHIN_S = 10.0
# Who left later than this before a message may still have counted as present (invariant 10).
_GONE_S = 20.0
# Between the decision to push and the push service: what was seen in that time is not held against it.
_UNDER_WAY_S = 2.0


def pushes(history: History) -> Iterator[Finding]:
    """At least one for each device of whoever is offline and has not seen the message, within 10 s of healing; visible
    at most once for each (message, device); none to the sender, to a non-member, or for what was seen before."""
    yield from _wrong(history)
    yield from _missing(history)


def _wrong(history: History) -> Iterator[Finding]:
    owners = {op.what.device: op.user for op in history.ops(AddDevice)}
    stored, members = stored_messages(history), Memberships(history)
    sent_s = {(key.conversation, each.seq): each.asked_s for key, each in all_attempts(history).items()}
    seen = _seen(history, lambda mark: (mark.ended_s, mark.what.seq) if mark.is_ok else None)
    for push in history.of(Pushed):
        place = (push.conversation, push.seq)
        owner, message = owners.get(push.device, ""), stored.get(place)
        what = f"{push.device} of {owner or 'nobody'} got a push for {push.seq} of {push.conversation}"
        if message is not None and message.sender == owner:
            yield Finding(9, f"{what}, which he sent himself", (), push.at_s)
        if members.is_stranger(push.conversation, owner, sent_s.get(place, push.at_s), push.at_s):
            yield Finding(9, f"{what}, and was no member", (), push.at_s)
        reach = seen.get((push.conversation, owner))
        if reach is not None and reach.by(push.at_s - _UNDER_WAY_S) >= push.seq:
            yield Finding(9, f"{what}, which he had seen", (), push.at_s)
    visible = Counter((push.device, push.conversation, push.seq) for push in history.of(Pushed) if push.visible)
    for (device, conversation, seq), count in visible.items():
        if count > 1:
            yield Finding(9, f"{device} showed {seq} of {conversation} {count} times")


def _missing(history: History) -> Iterator[Finding]:
    members, attempts = Memberships(history), all_attempts(history)
    pushed = {(push.device, push.conversation, push.seq): push.at_s for push in reversed(history.of(Pushed))}
    seen = _seen(history, lambda mark: (mark.invoked_s, mark.what.seq))
    for device in history.ops(AddDevice):
        user = device.user
        sessions = [session for session in all_sessions(history) if session.user == user]
        for (conversation, sender, _), each in attempts.items():
            due_s = max(each.acked_s, history.healed_s) + _PUSHED_WITHIN_S
            if each.seq is None or due_s > history.ended_s:  # nobody waited for it
                continue
            if user == sender or device.ended_s > each.asked_s or not device.is_ok:
                continue
            if any(session.may_touch(each.asked_s - _GONE_S, due_s) for session in sessions):
                continue
            if not members.is_member(conversation, user, each.asked_s, due_s):
                continue
            reach = seen.get((conversation, user))
            if reach is not None and reach.by(due_s) >= each.seq:
                continue
            at_s = pushed.get((device.what.device, conversation, each.seq))
            if at_s is None or at_s > due_s:
                when = "never" if at_s is None else f"only at {at_s:.3f} s"
                text = f"{user} was offline: {device.what.device} got the push for {each.seq} of {conversation} {when}"
                yield Finding(9, f"{text}, due by {due_s:.3f} s", (each.sends[0].op, device.op))


def _seen(history: History, step: Callable[[Op[Mark]], tuple[float, int] | None]) -> Mapping[tuple[str, str], Reach]:
    """How far each member had seen each conversation; `step` says from when a mark counts, if it does."""
    steps: defaultdict[tuple[str, str], list[tuple[float, int]]] = defaultdict(list)
    for mark in history.ops(Mark):
        counted = step(mark)
        if counted is not None and mark.what.status is Status.SEEN and mark.outcome is not Outcome.REFUSED:
            steps[mark.what.conversation, mark.user].append(counted)
    return {member: Reach(each) for member, each in steps.items()}
