"""Why a problem was drawn, and what was believed of it then."""

from typing import Literal, NamedTuple

Why = Literal["sampler", "review", "spare", "probe", "finish"]


class Draw(NamedTuple):
    """One problem of one round, before anything has learnt from its group.

    Beta(`belief_a`, `belief_b`) is the belief about its pass rate, `informative` the probability
    that its group holds both a correct and a wrong completion. `why` says who chose it: the
    sampler, a review of what was retired, nobody else being left (`spare`), or a probe and the
    completions that finish a probed group (a probe of a review or of a spare one says that).
    `round` counts the step's rounds from 0.
    """

    key: str
    belief_a: float
    belief_b: float
    informative: float
    why: Why
    round: int
