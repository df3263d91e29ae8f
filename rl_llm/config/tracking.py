"""Where metrics go: the names of trackers, and their options."""

from collections.abc import Iterator, Sequence
from typing import Literal

from rl_llm.config.base import Section

TrackerName = Literal["jsonl", "tensorboard", "wandb"]


class TrackerUse(Section):
    """A place where metrics go, with its options."""

    name: TrackerName
    """As in the short form, which is the name alone."""

    project: str | None = None
    """Of `wandb` alone: the project; null takes WANDB_PROJECT, else `rl-llm`."""

    entity: str | None = None
    """Of `wandb` alone: the team or user; null takes WANDB_ENTITY, else your default."""

    @classmethod
    def of(cls, use: "TrackerName | TrackerUse") -> "TrackerUse":
        """Return the long form of a name, or of what is one."""
        return use if isinstance(use, cls) else cls.model_validate({"name": use})


def tracking_faults(tracking: Sequence[TrackerName | TrackerUse]) -> Iterator[str]:
    """Yield what contradicts itself: a tracker that stands there twice, an option of another."""
    uses = [TrackerUse.of(use) for use in tracking]
    for name in sorted({use.name for use in uses}):
        if sum(use.name == name for use in uses) > 1:
            yield f"tracking: {name!r} stands there twice; keep one of them"
    for use in uses:
        for option, value in use.model_dump(exclude={"name"}, exclude_none=True).items():
            if use.name != "wandb":
                yield (
                    f"tracking: {option}={value!r} of {use.name!r}: only 'wandb' has it; leave it "
                    "out"
                )
