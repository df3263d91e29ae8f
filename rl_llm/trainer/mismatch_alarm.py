"""A word to the person at the run, where what draws the tokens is far from what learns from
them."""

import math

from rl_llm.policy import UpdateFacts

LEAST_SHARE = 0.5
"""Below this effective share of the tokens most of what was generated counts for nothing."""


class MismatchAlarm:
    """Speaks once when the engine's logprobs are further from the trainer's than a threshold, and
    again only after they were nearer.

    In a step of stale rows alone, drawn by older weights, logprobs differ because the weights do:
    there it watches the effective share of the tokens. A step that trained nothing counts for
    nothing, and a resumed run counts anew.
    """

    def __init__(self, threshold_nats: float | None) -> None:
        """`threshold_nats` bounds the mean over a step's tokens; None never speaks."""
        self._threshold_nats = threshold_nats
        self._is_apart = False
        self._is_thin = False

    def __call__(self, facts: UpdateFacts, *, dtype: str, engine: str) -> list[str]:
        """Take note of a step's updates, and return what is to be said; `dtype` and `engine` are
        those of the recipe."""
        if self._threshold_nats is None or not facts.trained_tokens:
            return []
        if math.isnan(facts.mismatch_mean_nats):
            return self._of_stale_rows(facts)
        was_apart = self._is_apart
        self._is_apart = facts.mismatch_mean_nats > self._threshold_nats
        if was_apart or not self._is_apart:
            return []
        return [
            f"engine mismatch: the mean of |log old - log mu| over the step's tokens is "
            f"{facts.mismatch_mean_nats:.3g} nats, above "
            f"rollout.mismatch_alarm_nats={self._threshold_nats:g}: the engine {engine} and the "
            f"trainer disagree about the same weights. Usual causes: "
            f"{'; '.join(_causes(dtype=dtype, engine=engine))}"
        ]

    def _of_stale_rows(self, facts: UpdateFacts) -> list[str]:
        was_thin, share = self._is_thin, facts.effective_sample_share
        self._is_thin = share < LEAST_SHARE
        if was_thin or not self._is_thin:
            return []
        return [
            f"effective share of the step's tokens: {share:.2f}, below {LEAST_SHARE:g}: the policy "
            "has moved far from the older weights that drew them, so a few tokens outweigh the "
            "rest; lower rollout.max_staleness or optim.lr"
        ]


def _causes(*, dtype: str, engine: str) -> list[str]:
    """Return what usually sets engine and trainer apart, likeliest first, each with what to do."""
    causes = []
    if engine == "vllm_server":
        causes += [
            "servers that sample otherwise than the recipe (start them with --logprobs-mode "
            f"processed_logprobs, --generation-config vllm and --dtype {dtype})",
            "an adapter folder that a server sees under another path, or with older files",
        ]
    if dtype != "float32":
        causes.append(
            f"rounding, as both compute in {dtype}, and the model's head most of all "
            "(model.dtype=float32 tells; rollout.correction tis or mis makes up for it)"
        )
    told_by = " (another rollout.vllm.publish tells)" if engine == "vllm" else ""
    return [
        *causes,
        f"stale weights, or another adapter, if it grows from step to step{told_by}",
        "a temperature that one of the two leaves out (rollout.temperature=1 tells)",
    ]
