"""The `curriculum` section of a recipe."""

import math
from typing import Annotated, Literal

from pydantic import Field

from rl_llm.config.base import (
    NamedPart,
    NonNegativeInt,
    OpenShare,
    PositiveFloat,
    PositiveInt,
    Section,
    Share,
)


class BeliefSection(Section):
    """How evidence about pass rates ages, and how problems of one bucket inform each other."""

    prior_strength: PositiveFloat = 3.0
    """How many completions the bucket's pass rate is worth beside a problem's own."""

    visit_decay: Share = 0.5
    """What remains of a problem's own evidence at its next visit."""

    bucket_decay: Share = 0.9
    """What remains of a bucket's evidence at each step that shows the bucket."""

    max_drift: Annotated[float, Field(ge=0, le=10)] = 2.0
    """By how many logits a belief may move with its bucket between two visits."""

    max_gain: Annotated[float, Field(ge=0, le=10)] = 2.0
    """By how many logits at most a problem is believed to rise by being learnt from, beyond its
    bucket; the run finds out by how many. 0: by none."""

    coupling: Annotated[float, Field(ge=0, le=1e6)] = 10.0
    """How alike the neighbouring levels of a source move, levels that are numbers: the inverse of
    the variance of the difference of their moves, in logits, in one round. 0: each by itself."""


class RefillSection(Section):
    """More prompts within a step, in place of groups that gates dropped."""

    max_rounds: NonNegativeInt = 0
    """How many times a step may draw again."""

    enough: Annotated[float, Field(gt=0, le=1)] = 1.0
    """The share of `rollout.problems_per_step` that a step draws again up to."""

    within: Literal["bucket", "pool"] = "bucket"
    """Draw from the same source and level as what was dropped, or from the whole pool."""

    when_dry: Literal["continue", "stop"] = "continue"
    """When a step ends with no group to learn from: go on to the next step, or stop the run."""

    def num_enough(self, problems_per_step: int) -> int:
        """Return with how many groups a step draws no further."""
        return math.ceil(round(self.enough * problems_per_step, 6))


class RetireSection(Section):
    """Mastered problems are drawn in reviews alone, until one of those shows that they slipped."""

    pass_rate: OpenShare = 0.9
    """A problem retires when its pass rate is above this ..."""

    certainty: Annotated[float, Field(ge=0.5, lt=1)] = 0.9
    """... with more than this probability."""

    review_share: Share = 0.02
    """The share of the drawn problems that are reviews, once there is something to review."""


class DeferSection(Section):
    """Problems that are never solved wait, longer each time; none is given up."""

    after: Annotated[int, Field(gt=0, le=255)] = 2
    """All-wrong groups in a row after which a problem waits."""

    first_steps: PositiveInt = 4
    """How many steps it waits first; each further all-wrong group doubles the wait."""

    most_steps: PositiveInt = 64
    """The longest wait."""


class ProbeSection(Section):
    """A few completions first, and the rest of the group only where those were mixed."""

    completions: PositiveInt = 4
    """Completions of a probe; fewer than `rollout.group_size`."""

    problems: PositiveInt = 64
    """Problems probed in a step."""


class PriorsSection(Section):
    """What is known of pass rates before the run."""

    path: str | list[str] | None = None
    """Parquet files of `rl-llm data measure` or `rl-llm data beliefs`; a later one wins."""

    strength: PositiveFloat = 8.0
    """The most completions that a prior is worth; also for a `pass_rate` column of the data."""


class CurriculumSection(Section):
    """Which prompts are drawn, and which scored groups are learnt from."""

    belief: BeliefSection = BeliefSection()
    sampler: NamedPart = NamedPart(name="posterior")
    """Chooses the prompts of a step."""

    gates: list[NamedPart] | None = None
    """A group is learnt from if every gate admits it; null is `informative` where the algorithm
    compares a group with itself, and no gate where it does not."""

    refill: RefillSection = RefillSection()
    retire: RetireSection | None = RetireSection()
    """null draws mastered problems like all others."""

    defer: DeferSection | None = DeferSection()
    """null lets no problem wait."""

    quotas: dict[str, Annotated[float, Field(gt=0, le=1)]] = {}
    """The share of the drawn problems that comes from each source; the others share the rest."""

    prerequisites: dict[str, Literal["in_order"] | dict[int | str, list[int | str]]] = {}
    """By source: `in_order`, or for a level the levels that must be solved before it is drawn."""

    probe: ProbeSection | None = None
    """Probe before finishing groups; null generates whole groups."""

    priors: PriorsSection = PriorsSection()

    learn_from_eval: bool = False
    """Beliefs also learn from the training problems of an evaluation (`eval.train_problems`)."""
