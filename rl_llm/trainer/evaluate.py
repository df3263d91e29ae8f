"""Pass rates on held-out problems, and on a sample of the training pool, with standard errors."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rl_llm.errors import ConfigError
from rl_llm.pass_rates import (
    PassRate,
    ProblemResult,
    ReadAnswer,
    by_level,
    pass_rate,
    result_of,
)
from rl_llm.records import Level, Problem, Request, Sampling, ScoredGroup
from rl_llm.seeds import derive_rng, derive_seed
from rl_llm.trainer.generation import Generation, refuse_unscored


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Held-out pass rates: over all problems, and by level; and the groups behind them.

    `train` is the pass rate of the training problems that were measured too, and `scored_train`
    their groups; None and empty when there are none. Nothing else here counts them.
    """

    overall: PassRate
    by_level: Mapping[Level, PassRate]
    completion_tokens_mean: float
    truncated_share: float
    num_masked: int
    elapsed_s: float
    scored: tuple[ScoredGroup, ...]
    train: PassRate | None = None
    scored_train: tuple[ScoredGroup, ...] = ()

    def results(self, read_answer: ReadAnswer | None = None) -> list[ProblemResult]:
        """Return the result of each held-out problem; with a reader of answers, also of votes."""
        return [result_of(group, read_answer) for group in self.scored]

    @property
    def num_completions(self) -> int:
        """How many completions of held-out problems were generated."""
        return sum(len(group.scores) for group in self.scored)


class Evaluator:
    """Samples held-out problems with the same randomness every time, so that weights alone matter.

    Training problems are always the same ones, with new randomness at every step: beliefs may learn
    from them, and would otherwise take one draw, seen again, for further evidence.
    """

    def __init__(
        self,
        problems: Sequence[Problem],
        generation: Generation,
        *,
        sampling: Sampling,
        samples_per_problem: int,
        seed: int,
        train_problems: Sequence[Problem] = (),
    ) -> None:
        """`sampling` is training's own: its temperature is part of what is measured.

        Raises `ConfigError` for training problems without held-out ones.
        """
        if train_problems and not problems:
            raise ConfigError(
                f"eval.train_problems={len(train_problems)} with nothing under data.eval: an "
                "evaluation measures training problems beside held-out ones; add a source under "
                "data.eval, or set eval.train_problems to 0"
            )
        self._problems = tuple(problems)
        self._train_problems = tuple(train_problems)
        self._generation = generation
        self._sampling = sampling
        self._samples_per_problem = samples_per_problem
        self._seed = seed

    @property
    def has_problems(self) -> bool:
        """Say whether there is anything to evaluate on."""
        return bool(self._problems)

    def __call__(self, step: int = 0) -> Evaluation:
        """Generate, score and count; a completion whose reward failed counts as wrong.

        `step` is the training step behind which this stands.
        """
        started = time.perf_counter()
        groups = tuple(self._generation(self._requests(step)))
        refuse_unscored(groups)
        scored, scored_train = groups[: len(self._problems)], groups[len(self._problems) :]
        results, train = ([result_of(group) for group in each] for each in (scored, scored_train))
        completions = [c for group in scored for c in group.group.completions]
        return Evaluation(
            overall=_pass_rate(results),
            by_level={level: _pass_rate(own) for level, own in by_level(results).items()},
            completion_tokens_mean=float(np.mean([len(c.token_ids) for c in completions])),
            truncated_share=float(np.mean([c.finish_reason == "length" for c in completions])),
            num_masked=sum(result.masked for result in results),
            elapsed_s=time.perf_counter() - started,
            scored=scored,
            train=_pass_rate(train) if train else None,
            scored_train=scored_train,
        )

    def _requests(self, step: int) -> list[Request]:
        """Return the requests for held-out problems, and behind them the training ones."""
        held_out = [derive_seed(self._seed, "evaluation", p.key) for p in self._problems]
        train = [
            derive_seed(self._seed, "evaluation", "train", step, problem.key)
            for problem in self._train_problems
        ]
        return [
            Request(
                problem=problem,
                num_completions=self._samples_per_problem,
                sampling=self._sampling,
                stream_key=stream_key,
            )
            for problem, stream_key in zip(
                (*self._problems, *self._train_problems), (*held_out, *train), strict=True
            )
        ]


def sample_problems(problems: Sequence[Problem], num: int, *, seed: int) -> list[Problem]:
    """Return `num` of the problems in their order, or all when there are no more than that.

    Each is equally likely to be chosen, and of every source and level the share of the pool is
    kept, to the problem above or below: problems are shuffled within their source and level, and
    every (count / num)th is taken from a random start.
    """
    if num >= len(problems):
        return list(problems)
    if num == 0:
        return []
    rng = derive_rng(seed, "evaluation", "train", "choice")
    ranks: dict[tuple[str, Level], int] = {}
    bucket_N = np.array([ranks.setdefault((p.source, p.level), len(ranks)) for p in problems])
    order_N = np.lexsort((rng.random(len(problems)), bucket_N))
    places = (np.arange(num) + rng.random()) * len(problems) / num
    chosen = np.sort(order_N[places.astype(np.int64).clip(max=len(problems) - 1)])
    return [problems[position] for position in chosen.tolist()]


def _pass_rate(results: Sequence[ProblemResult]) -> PassRate:
    return pass_rate([result.rate for result in results])
