"""An edge's presence as a process of its own, which a test can kill: `python -m … TARGET USER…`, a session each."""

import asyncio
import sys
from collections.abc import Sequence

from edge.model import UserId
from tests.integration.presence.world import Edge


async def main(target: str, user_ids: Sequence[str]) -> None:
    edge = Edge([target])
    await edge.start()
    for user_id in user_ids:
        edge.open(f"of {user_id}, in a process", UserId(user_id))
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2:]))
