"""What to say when a step found nothing to learn from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from rl_llm.curriculum.gates import counted_scores
from rl_llm.records import ScoredGroup

Policy = Literal["continue", "stop"]

_WHAT_FOLLOWS = {
    "continue": "curriculum.refill.when_dry=continue: the run goes on with the next step",
    "stop": "curriculum.refill.when_dry=stop: the run ends here",
}


BY_CHANCE = 1e-3
"""What would happen by chance in fewer steps than this share did not."""


@dataclass(frozen=True, kw_only=True)
class Solved:
    """What a step solved: of `groups` with a working reward, `solved` had a correct completion."""

    groups: int
    solved: int
    pass_rate: float


def solved_of(scored: Sequence[ScoredGroup]) -> Solved:
    """Count what a step solved; its pass rate is 0 where no reward worked."""
    counted = [found for group in scored if (found := counted_scores(group))]
    correct = [score.correct for scores in counted for score in scores]
    return Solved(
        groups=len(counted),
        solved=sum(any(score.correct for score in scores) for scores in counted),
        pass_rate=sum(correct) / max(len(correct), 1),
    )


def dry_message(
    scored: Sequence[ScoredGroup],
    *,
    when_dry: Policy,
    is_again: bool = False,
    before: Solved | None = None,
    correct_at: Mapping[str, float] | None = None,
) -> str:
    """Return one message about the groups of a step, none of which passed the gates: what was seen,
    likely causes, and what follows; with `is_again`, behind another such step, what was seen
    alone. `before` is what the step before solved, if there was one; `correct_at` is that of each
    reward on channel `correctness`, by name."""
    if not scored:
        return f"no group was scored in this step. {_WHAT_FOLLOWS[when_dry]}"
    all_counted = [counted_scores(group) for group in scored]
    kinds = {
        "all wrong": sum(_is_all_wrong(group) for group in scored),
        "all correct": sum(bool(c) and all(s.correct for s in c) for c in all_counted),
        "without a working reward": sum(not c for c in all_counted),
    }
    num_mixed = len(scored) - sum(kinds.values())
    counts = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
    mixed = f", {num_mixed} mixed, which the gates dropped" if num_mixed else ""
    again = "again " if is_again else ""
    seen = f"{again}nothing to learn from in {len(scored)} groups ({counts}{mixed})"
    if is_again:
        return seen
    return (
        f"{seen}: {_describe_totals(scored)}. {_describe_fall(scored, before) or 'Likely'}"
        f"{_likely_causes(scored, kinds, num_mixed, correct_at or {})}. "
        f"{_WHAT_FOLLOWS[when_dry]}"
    )


def _describe_fall(scored: Sequence[ScoredGroup], before: Solved | None) -> str:
    """Say that nothing is solved any more; empty where it was not before, or where chance may have
    drawn none of the problems that can be solved.

    Of `before` two groups more are taken to have been in vain, since few of them say little.
    """
    now = solved_of(scored)
    if before is None or now.solved:
        return ""
    in_vain = 1 - before.solved / (before.groups + 2)
    if in_vain**now.groups >= BY_CHANCE:
        return ""
    return (
        f"The pass rate fell from {before.pass_rate:.2f} in the step before to 0: an update "
        "has likely broken the policy, so lower optim.lr. Else"
    )


def _describe_totals(scored: Sequence[ScoredGroup]) -> str:
    totals = [score.total for group in scored for score in counted_scores(group)]
    if not totals:
        return "every reward failed"
    low, high = min(totals), max(totals)
    if low == high:
        return f"rewards constant at {low:g}"
    return f"rewards from {low:g} to {high:g}"


def _likely_causes(
    scored: Sequence[ScoredGroup],
    kinds: Mapping[str, int],
    num_mixed: int,
    correct_at: Mapping[str, float],
) -> str:
    """Name the causes of what most groups show, and of what more than half as many show."""
    most = max(kinds.values())
    if num_mixed and num_mixed >= most:
        return ": curriculum.gates admits less than this pool gives; widen or remove a gate"
    shown = sorted((kind for kind in kinds if 2 * kinds[kind] > most), key=lambda k: -kinds[k])
    causes = [_cause(kind, scored, correct_at) for kind in shown]
    if "all wrong" not in shown and (cut := _describe_cut(scored)):
        causes[-1] += f" ({cut})"
    if num_mixed:
        shown.append("mixed")
        causes.append("look at what curriculum.gates leaves out")
    if len(shown) == 1:
        return f": {causes[0]}"
    told = "; ".join(f"of those {kind}, {cause}" for kind, cause in zip(shown, causes, strict=True))
    return f", {told}"


def _cause(kind: str, scored: Sequence[ScoredGroup], correct_at: Mapping[str, float]) -> str:
    if kind == "without a working reward":
        errors = (score.error for group in scored for score in group.scores if score.error)
        return f"a broken reward ({next(errors, 'no message')})"
    if kind == "all correct":
        return (
            "what can be drawn is mastered; add harder problems, or let those be drawn that "
            "curriculum.prerequisites, curriculum.quotas or a ladder's window hold back"
        )
    if blocked := _describe_block(scored, correct_at):
        return blocked
    wrong = [group for group in scored if _is_all_wrong(group)]
    num_cut, num_all = _count_cut(wrong)
    cut, is_mostly = _describe_cut(scored), 2 * num_cut > num_all
    partly = _most_partly(scored)
    hard = (
        "the problems are too hard for the model, or the reward does not read the form in which "
        "it answers (look at sample completions)"
    )
    return (
        (f"{_describe_cut(wrong)} before they ended; raise it, or else " if is_mostly else "")
        + hard
        + (f", or answers are cut off ({cut})" if cut and not is_mostly else "")
        + (
            f", or a reward that gives {partly:g} at most falls short of its correct_at"
            if partly
            else ""
        )
    )


def _is_all_wrong(group: ScoredGroup) -> bool:
    counted = counted_scores(group)
    return bool(counted) and not any(score.correct for score in counted)


def _describe_block(scored: Sequence[ScoredGroup], correct_at: Mapping[str, float]) -> str:
    """Name the reward that no completion satisfies though some satisfy all others on channel
    `correctness`; empty where there is none."""
    counted = [s.parts for group in scored for s in counted_scores(group)]
    for name, least in correct_at.items():
        others = {other: at for other, at in correct_at.items() if other != name}
        given = [parts for parts in counted if name in parts]
        most = max((parts[name] for parts in given), default=least)
        kept = sum(
            any(other in parts for other in others)
            and all(parts[other] >= at for other, at in others.items() if other in parts)
            for parts in given
        )
        if most < least and kept:
            return (
                f"reward {name!r} is on channel correctness and gave {most:g} at most, below its "
                f"correct_at of {least:g}: it alone makes {kept} of {len(counted)} completions "
                "wrong; put it on another channel, as `channel: length`, or lower its correct_at"
            )
    return ""


def _most_partly(scored: Sequence[ScoredGroup]) -> float:
    """Return the most that a reward gave of what lies between nothing and 1; 0 for nothing."""
    parts = [part for group in scored for s in counted_scores(group) for part in s.parts.values()]
    return max((part for part in parts if 0 < part < 1), default=0.0)


def _describe_cut(scored: Sequence[ScoredGroup]) -> str:
    """Return how many completions ran into the limit; empty where none did."""
    num_cut, num_all = _count_cut(scored)
    if not num_cut:
        return ""
    return f"{num_cut} of {num_all} completions ran into rollout.max_new_tokens"


def _count_cut(scored: Sequence[ScoredGroup]) -> tuple[int, int]:
    """Return how many completions ran into the limit, and how many there are."""
    reasons = [c.finish_reason for group in scored for c in group.group.completions]
    return reasons.count("length"), len(reasons)
