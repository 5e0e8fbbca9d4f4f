"""Who was certainly in a conversation, and who certainly was not: changes take time, and may be unsure."""

from collections.abc import Sequence

from tests.chaos.entries import AddMember, RemoveMember
from tests.chaos.history import History, Op, Outcome


class Memberships:
    def __init__(self, history: History) -> None:
        self._initial = {(each.conversation, user) for each in history.started.conversations for user in each.members}
        self._added = [op for op in history.ops(AddMember) if op.outcome is not Outcome.REFUSED]
        self._removed = [op for op in history.ops(RemoveMember) if op.outcome is not Outcome.REFUSED]

    def removals(self) -> Sequence[Op[RemoveMember]]:
        """Those that were acknowledged."""
        return [op for op in self._removed if op.is_ok]

    def was_added(self, conversation: str, user: str) -> bool:
        """Perhaps."""
        return any(op.what == AddMember(conversation, user) for op in self._added)

    def back_from_s(self, removal: Op[RemoveMember]) -> float:
        """When the user may have been a member again."""
        what = AddMember(removal.what.conversation, removal.what.user)
        times = [op.invoked_s for op in self._added if op.what == what and op.ended_s > removal.invoked_s]
        return min(times, default=float("inf"))

    def is_member(self, conversation: str, user: str, from_s: float, to_s: float) -> bool:
        """Certainly, all the time."""
        removed = [op for op in self._removed if op.what == RemoveMember(conversation, user) and op.invoked_s <= to_s]
        if (conversation, user) in self._initial and not removed:
            return True
        added = [op for op in self._added if op.what == AddMember(conversation, user)]
        return any(
            op.is_ok and op.ended_s <= from_s and all(gone.ended_s < op.invoked_s for gone in removed) for op in added
        )

    def is_stranger(self, conversation: str, user: str, from_s: float, to_s: float) -> bool:
        """Certainly not a member, all the time."""
        added = [op for op in self._added if op.what == AddMember(conversation, user) and op.invoked_s <= to_s]
        if (conversation, user) not in self._initial and not added:
            return True
        removed = [op for op in self._removed if op.what == RemoveMember(conversation, user) and op.is_ok]
        return any(op.ended_s <= from_s and all(back.ended_s < op.invoked_s for back in added) for op in removed)
