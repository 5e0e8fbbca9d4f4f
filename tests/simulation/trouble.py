"""How much goes wrong in one run: drawn from its seed, so that some runs are calm and some are a storm."""

import random
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Trouble:
    """Each `…_odds` is the probability for one operation; times are virtual seconds."""

    # A store call that is refused without an effect.
    refused_odds: float
    # An append whose outcome nobody learns: stored already, or stored later, or never.
    uncertain_odds: float
    # A store call that takes up to `slow_s`.
    slow_odds: float
    slow_s: float
    # An append of which the first part is there for a while before the rest.
    torn_odds: float
    lost_hint_odds: float
    doubled_hint_odds: float
    late_hint_s: float
    # A call to a replica whose answer is lost, or that comes too late.
    lost_answer_odds: float
    # A batch of an edge that goes to another replica than the conversation's own.
    misrouted_odds: float
    # The same batch, sent through two replicas at once.
    doubled_call_odds: float
    # Before each of a watcher's events: it loses its stream and resumes elsewhere.
    lost_stream_odds: float
    kills: int
    deaf_times: int

    @classmethod
    def draw(cls, rng: random.Random) -> "Trouble":
        def odds(small: float, large: float) -> float:
            return rng.choice((0.0, small, large))

        return cls(
            refused_odds=odds(0.02, 0.15),
            uncertain_odds=odds(0.05, 0.2),
            slow_odds=odds(0.05, 0.2),
            slow_s=rng.choice((0.1, 0.8)),
            torn_odds=odds(0.2, 0.6),
            lost_hint_odds=odds(0.1, 0.6),
            doubled_hint_odds=odds(0.1, 0.3),
            late_hint_s=rng.choice((0.002, 0.05, 0.5)),
            lost_answer_odds=odds(0.05, 0.2),
            misrouted_odds=odds(0.1, 0.5),
            doubled_call_odds=odds(0.05, 0.2),
            lost_stream_odds=odds(0.02, 0.1),
            kills=rng.choice((0, 0, 1, 1, 2)),
            deaf_times=rng.choice((0, 0, 1, 2)),
        )


CALM = Trouble(
    refused_odds=0,
    uncertain_odds=0,
    slow_odds=0,
    slow_s=0,
    torn_odds=0,
    lost_hint_odds=0,
    doubled_hint_odds=0,
    late_hint_s=0.002,
    lost_answer_odds=0,
    misrouted_odds=0,
    doubled_call_odds=0,
    lost_stream_odds=0,
    kills=0,
    deaf_times=0,
)
"""After the healing."""
