"""What to say when a step found nothing to learn from."""

from collections.abc import Sequence
from typing import Literal

from rl_llm.curriculum.gates import counted_scores
from rl_llm.records import ScoredGroup

Policy = Literal["continue", "stop"]

_WHAT_FOLLOWS = {
    "continue": "curriculum.refill.when_dry=continue: the run goes on with the next step",
    "stop": "curriculum.refill.when_dry=stop: the run ends here",
}


def dry_message(scored: Sequence[ScoredGroup], *, when_dry: Policy) -> str:
    """Return one message about the groups of a step, none of which passed the gates: what was seen,
    likely causes, and what follows."""
    if not scored:
        return f"no group was scored in this step. {_WHAT_FOLLOWS[when_dry]}"
    all_counted = [counted_scores(group) for group in scored]
    num_wrong = sum(bool(c) and not any(s.correct for s in c) for c in all_counted)
    num_right = sum(bool(c) and all(s.correct for s in c) for c in all_counted)
    num_failed = sum(not c for c in all_counted)
    num_mixed = len(scored) - num_wrong - num_right - num_failed
    mixed = f", {num_mixed} mixed, which the gates dropped" if num_mixed else ""
    return (
        f"nothing to learn from in {len(scored)} groups: {_describe_totals(scored)}; "
        f"{num_wrong} groups all wrong, {num_right} all correct, {num_failed} without a working "
        f"reward{mixed}. Likely: {_likely_cause(scored, num_wrong, num_right, num_failed)}. "
        f"{_WHAT_FOLLOWS[when_dry]}"
    )


def _describe_totals(scored: Sequence[ScoredGroup]) -> str:
    totals = [score.total for group in scored for score in counted_scores(group)]
    if not totals:
        return "every reward failed"
    low, high = min(totals), max(totals)
    if low == high:
        return f"rewards constant at {low:g}"
    return f"rewards from {low:g} to {high:g}"


def _likely_cause(
    scored: Sequence[ScoredGroup], num_wrong: int, num_right: int, num_failed: int
) -> str:
    """Name the causes of what most groups show."""
    most = max(num_wrong, num_right, num_failed)
    if len(scored) - num_wrong - num_right - num_failed >= most:
        return "curriculum.gates admits less than this pool gives; widen or remove a gate"
    if most == num_failed:
        errors = (score.error for group in scored for score in group.scores if score.error)
        return f"a broken reward ({next(errors, 'no message')})"
    if most == num_right:
        return (
            "what can be drawn is mastered; add harder problems, or open levels that "
            "curriculum.prerequisites keeps locked"
        )
    completions = [c for group in scored for c in group.group.completions]
    num_cut = sum(completion.finish_reason == "length" for completion in completions)
    return (
        "the problems are too hard for the model, or the reward does not read the form in which "
        f"it answers (look at sample completions), or answers are cut off ({num_cut} of "
        f"{len(completions)} completions ran into rollout.max_new_tokens)"
    )
