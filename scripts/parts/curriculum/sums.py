"""A learner of digit sums without a network, under the scheduler of rl-llm: half a second a run.

It stands for the model of `bench_curriculum.py`. A completion is right when each of its steps is;
a step needs its digit sum and its place, two of M skills, each with a probability of its own.

Legend: M skills, D skills of one problem, G completions of a group, N problems.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from parts.curriculum.arms import POOL_SEED
from parts.tiny_model.warm_ups import WARM_UPS, confusion
from rl_llm import plugins
from rl_llm.config import Recipe
from rl_llm.curriculum import Rollouts, Scheduler, build_scheduler
from rl_llm.records import Completion, Group, Problem, Request, Sampling, Score, ScoredGroup
from rl_llm.seeds import derive_rng

Floats = NDArray[np.float64]
Skills = NDArray[np.int64]

DATA = plugins.resolve("arithmetic", kind="data").module
NUM_SUMS = 200  # Left digit, right digit and carry.
PLACES = (0.995, 0.98, 0.97, 0.96, 0.95, 0.94, 0.92, 0.9, 1e-4, 1e-4)  # From the lowest digit up.
SURE = 0.99  # Of a digit sum that is not confused.
EVALUATE_EVERY = 8  # Steps.

_COMPLETION = Completion(
    token_ids=(1,), logprobs=(0.0,), text="", finish_reason="stop", policy_version=0
)
_SCORES = {
    good: Score(total=float(good), parts={}, correct=good, error=None) for good in (True, False)
}


class SumsLearner:
    """One logit a skill, moved by GRPO's gradient at the size that Adam gives it.

    A step of a completion is right with the product of its skills' probabilities, so it is a coin a
    skill: x is 1 with probability q. A group moves the logit of a skill along the mean over tokens
    of A (x - q), with A the rewards standardised in their group. Adam divides by the size of
    gradients, most of which is noise, `noise` a token, in parameters that no skill stands for; so
    an update from more tokens holds more of what is to be learnt. A digit sum takes along those
    with the digits exchanged or the other carry, by `share`.
    """

    def __init__(
        self, *, seed: int, rate: float = 0.7, noise: float = 3.0, share: float = 0.15
    ) -> None:
        """Start as the shipped model does: about half of the digit sums are confused. `rate` and
        `noise` are such that `posterior-untracked` takes about as long as on the benchmark's seeds
        for choosing settings; no other arm was fitted."""
        self._rng = derive_rng(seed, "sums learner")
        start = np.array([_start(number) for number in range(NUM_SUMS)] + list(PLACES))
        self._logit_M = np.log(start / (1.0 - start))
        self._rate, self._noise = rate, noise
        self._mean_M, self._square, self._updates = np.zeros_like(start), 0.0, 0
        self._along_MM = _taken_along(share, len(start))

    def rates(self, problems: Sequence[Skills]) -> Floats:
        """Return the true pass rate of each problem, given by its skills."""
        log_q_M = -np.log1p(np.exp(-self._logit_M))
        return np.exp([log_q_M[skills].sum() for skills in problems])

    def answer(self, skills: Skills, num_completions: int) -> NDArray[np.bool_]:
        """Return which skills went right (G, D)."""
        return self._rng.random((num_completions, len(skills))) < self._q(skills)

    def learn(self, groups: Sequence[tuple[Skills, NDArray[np.bool_]]]) -> None:
        """Take one update from the mixed groups among these; none if there are none."""
        gradient_M, num_steps = np.zeros_like(self._logit_M), 0
        for skills, right_GD in groups:
            reward_G = right_GD.all(axis=1)
            if reward_G.all() or not reward_G.any():
                continue
            advantage_G = (reward_G - reward_G.mean()) / (reward_G.std(ddof=1) + 1e-4)
            np.add.at(gradient_M, skills, advantage_G @ (right_GD - self._q(skills)))
            num_steps += right_GD.size
        if num_steps:
            self._update(gradient_M / num_steps, self._noise**2 / num_steps / NUM_SUMS)

    def _q(self, skills: Skills) -> Floats:
        q: Floats = 1.0 / (1.0 + np.exp(-self._logit_M[skills]))
        return q

    def _update(self, gradient_M: Floats, noise: float) -> None:
        """Take Adam's step, with one second moment for all; a little of the noise gets through."""
        gradient_M = gradient_M + 0.02 * np.sqrt(noise) * self._rng.standard_normal(len(gradient_M))
        self._updates += 1
        self._mean_M = 0.9 * self._mean_M + 0.1 * gradient_M
        self._square = 0.999 * self._square + 0.001 * float(np.mean(gradient_M**2) + noise)
        size = np.sqrt(self._square / (1.0 - 0.999**self._updates))
        step_M = self._along_MM @ self._mean_M / (1.0 - 0.9**self._updates) / size
        self._logit_M = np.clip(self._logit_M + self._rate * step_M, -9.0, 7.0)


@dataclass(frozen=True, kw_only=True)
class World:
    """A learner before a pool: what a sampler that knows may ask."""

    learner: SumsLearner
    pool: Sequence[Skills]

    def rates_N(self) -> Floats:
        """Return the true pass rate of every problem of the pool, now."""
        return self.learner.rates(self.pool)


@dataclass(frozen=True, kw_only=True)
class Curve:
    """How a run went: the pass rate on held-out problems, and of how many groups were mixed."""

    completions: Floats
    pass_rate: Floats
    mixed: Floats  # The share since the last point; that of the first is 0.


def skills_of(problem: Problem) -> Skills:
    """Return the skills that a sum needs: the digit sum and the place of each step."""
    assert isinstance(problem.prompt, str)
    left, right = map(int, problem.prompt.removesuffix("=").split("+"))
    sums = [_number(*operands) for operands in DATA.step_operands(left, right)]
    return np.array([*sums, *range(NUM_SUMS, NUM_SUMS + len(sums))])


def pool_of(recipe: Recipe, seed: int) -> list[Problem]:
    """Return the training pool that a run of this seed has."""
    logging.getLogger("plugins").setLevel(logging.ERROR)
    options = [source.options | {"seed": POOL_SEED + seed} for source in recipe.data.train]
    return [problem for each in options for problem in DATA.arithmetic(**each)]


def play(recipe: Recipe, world: World, problems: Sequence[Problem], *, budget: int) -> Curve:
    """Train until the budget is spent."""
    held_out = [
        skills_of(problem)
        for source in recipe.data.eval[:-1]  # Without the level above.
        for problem in DATA.arithmetic(**source.options)
    ]
    num_problems, group_size = recipe.rollout.problems_per_step, recipe.rollout.group_size
    scheduler = build_scheduler(
        recipe.curriculum,
        problems=problems,
        rollouts=Rollouts(
            num_problems=num_problems,
            group_size=group_size,
            sampling=Sampling(temperature=1.0, max_new_tokens=1),
            last_step=budget,
        ),
        seed=recipe.run.seed,
    )
    points, completions, step, mixed = [(0, world.learner.rates(held_out).mean(), 0.0)], 0, 0, []
    while completions < budget:
        step += 1
        flags = _take_step(scheduler, world.learner, step, num_problems)
        mixed += flags
        completions += group_size * len(flags)
        if step % EVALUATE_EVERY == 0 or completions >= budget:
            rate = world.learner.rates(held_out).mean()
            points.append((completions, rate, float(np.mean(mixed))))
            mixed = []
    return Curve(
        **dict(zip(("completions", "pass_rate", "mixed"), np.array(points).T, strict=True))
    )


def _take_step(
    scheduler: Scheduler, learner: SumsLearner, step: int, num_wanted: int
) -> list[bool]:
    """Play one step to its end; return of each group whether it was mixed."""
    flags, admitted, round = [], [], 0
    requests = scheduler.plan(step)
    while requests:
        answers = {}
        for request in requests:
            skills = skills_of(request.problem)
            answers[request.problem.key] = skills, learner.answer(skills, request.num_completions)
        scored = [_scored(request, answers[request.problem.key][1]) for request in requests]
        flags += [len({score.correct for score in group.scores}) == 2 for group in scored]
        scheduler.observe(scored, step=step)
        finished = scheduler.conclude(scored).finished
        admitted += [answers[group.group.problem.key] for group in finished]
        round += 1
        requests = scheduler.refill(step, round=round, num_missing=num_wanted - len(admitted))
    learner.learn(admitted)
    return flags


def _scored(request: Request, right_GD: NDArray[np.bool_]) -> ScoredGroup:
    correct = right_GD.all(axis=1).tolist()
    group = Group(
        problem=request.problem, prompt_ids=(0,), completions=(_COMPLETION,) * len(correct)
    )
    return ScoredGroup(group=group, scores=tuple(_SCORES[good] for good in correct))


def _number(left: int, right: int, carry: int) -> int:
    return (left * 10 + right) * 2 + carry


def _start(number: int) -> float:
    """Return how often a digit sum is right at the start."""
    digits, carry = divmod(number, 2)
    wrong, _ = confusion(WARM_UPS["frontier"], (*divmod(digits, 10), carry))
    return float(np.clip(1.0 - wrong, 0.03, SURE))


def _taken_along(share: float, num_skills: int) -> Floats:
    """Return how much of each skill's step (column) goes to each skill (row)."""
    along_MM = np.eye(num_skills)
    for number in range(NUM_SUMS):
        digits, carry = divmod(number, 2)
        left, right = divmod(digits, 10)
        for other in (_number(right, left, carry), _number(left, right, 1 - carry)):
            if other != number:
                along_MM[number, other] += share
    return along_MM
