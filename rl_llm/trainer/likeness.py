"""How much alike the completions of a step are: within a problem, and over its problems."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from rl_llm.records import ScoredGroup
from rl_llm.scoring import answer_text


def distinct_share(groups: Iterable[ScoredGroup]) -> float:
    """Return the mean over groups with a completion that is not correct of (d - 1) / (n - 1), d
    different texts among n completions: 0 where all are alike, 1 where no two are. NaN without
    such a group of two or more.

    Groups that are all correct are left out: who knows the answer may well say it in one way.
    """
    shares = [
        (len({completion.text for completion in each.group.completions}) - 1)
        / (len(each.group.completions) - 1)
        for each in groups
        if len(each.scores) > 1 and not all(score.correct for score in each.scores)
    ]
    return sum(shares) / len(shares) if shares else math.nan


def same_answer_share(groups: Sequence[ScoredGroup]) -> float:
    """Return the largest share of completions that give one answer; every problem counts alike."""
    weights: defaultdict[str, float] = defaultdict(float)
    for each in groups:
        texts = [completion.text for completion in each.group.completions]
        for text in texts:
            weights[answer_text(text) or text.strip()] += 1 / (len(texts) * len(groups))
    return max(weights.values(), default=0.0)


def same_reference_share(groups: Sequence[ScoredGroup]) -> float:
    """Return the largest share of problems that have one reference answer."""
    counts = Counter(each.group.problem.answer.strip() for each in groups)
    return max(counts.values(), default=0) / max(len(groups), 1)
