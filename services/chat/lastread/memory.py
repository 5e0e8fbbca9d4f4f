"""Last reads of one replica, the most recently moved ones."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence

from services.chat.lastread import Member
from services.chat.model import Seq

# Some 200 bytes each: 20 MB.
_MAX_KNOWN = 100_000


class MemoryLastRead:
    """See `services.chat.lastread.LastRead`."""

    def __init__(self) -> None:
        self._known: OrderedDict[Member, Seq] = OrderedDict()

    async def start(self) -> None:
        return None

    async def close(self) -> None:
        return None

    async def find(self, members: Sequence[Member]) -> Mapping[Member, Seq]:
        return {member: self._known[member] for member in members if member in self._known}

    async def record(self, reads: Mapping[Member, Seq]) -> None:
        for member, seq in reads.items():
            self._known[member] = max(seq, self._known.get(member, Seq(0)))
            self._known.move_to_end(member)
        while len(self._known) > _MAX_KNOWN:
            self._known.popitem(last=False)
