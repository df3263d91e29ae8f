"""The schedule of `grpo_d` run backwards, as a controller of one's own: what `bench_kl.py` holds
against it. Imports no torch."""

from collections.abc import Mapping
from typing import Any

from rl_llm.kl import GrpoD, KLController, KLFacts


class GrpoDReversed:
    """Uses the coefficients of `grpo_d` in reverse order: from `max` down to `min`, then up to the
    middle.

    The coefficients are the same, and so is their average; only when they are used differs.
    """

    needs_reference = True

    def __init__(
        self, *, min: float = 0.0, max: float = 0.02, valley: float = 0.3, total_steps: int
    ) -> None:
        """Refuse what `grpo_d` refuses."""
        forwards = GrpoD(min=min, max=max, valley=valley, total_steps=total_steps)
        self._betas = coefficients(forwards, total_steps)[::-1]
        self._steps_done = 0

    @property
    def beta(self) -> float:
        """The coefficient of the next step; after the last, that of the last."""
        return self._betas[self._steps_done if self._steps_done < len(self._betas) else -1]

    def observe(self, facts: KLFacts) -> None:
        """Count the step."""
        self._steps_done = facts.step

    def state_dict(self) -> dict[str, Any]:
        """Return the number of steps done."""
        return {"steps_done": self._steps_done}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up the number of steps done."""
        self._steps_done = int(state["steps_done"])


def coefficients(schedule: KLController, total_steps: int) -> list[float]:
    """Return the beta of every step of a schedule that looks at the number of steps alone."""
    betas = []
    for step in range(1, total_steps + 1):
        betas.append(schedule.beta)
        schedule.observe(
            KLFacts(
                ref_nats_per_token=0.0,
                ref_nats_per_response=0.0,
                old_nats_per_token=0.0,
                accuracy=0.0,
                step=step,
                total_steps=total_steps,
            )
        )
    return betas
