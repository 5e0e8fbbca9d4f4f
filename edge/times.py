"""Times as clients read them: RFC 3339 in UTC with milliseconds (wire.md)."""

import time
from functools import lru_cache


def rfc3339(ms: int) -> str:
    """`2026-11-22T10:00:00.000Z` for milliseconds since 1970, years 0001 to 9999."""
    seconds, rest = divmod(ms, 1000)
    return f"{_to_the_second(seconds)}.{rest:03d}Z"


# Messages of the same moment share their second. History pages visit older ones, hence more than a few.
@lru_cache(maxsize=4096)
def _to_the_second(seconds: int) -> str:
    utc = time.gmtime(seconds)
    return f"{utc.tm_year:04d}-{utc.tm_mon:02d}-{utc.tm_mday:02d}T{utc.tm_hour:02d}:{utc.tm_min:02d}:{utc.tm_sec:02d}"
