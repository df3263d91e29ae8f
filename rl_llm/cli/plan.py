"""What a step asks of each process, for any number of them: batch arithmetic that nobody solves."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from rl_llm.algorithms import Algorithm
from rl_llm.config import Recipe
from rl_llm.curriculum.probe import most_completions
from rl_llm.policy.imagined import Shape


@dataclass(frozen=True, kw_only=True)
class Share:
    """What one process gets of things that are dealt out one by one."""

    least: int
    most: int

    @classmethod
    def of(cls, count: int, num_ranks: int) -> "Share":
        """Deal `count` things out to processes."""
        return cls(least=count // num_ranks, most=math.ceil(count / num_ranks))

    def __str__(self) -> str:
        """Say one number, or both."""
        return f"{self.most:,}" if self.least == self.most else f"{self.least:,} or {self.most:,}"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One step, seen from one of `num_ranks` processes.

    A *call* asks the rollout engine for completions: the step's first, and each refill or the other
    call of a probing step. `problems` and `call_completions` are of a call. An update learns from
    whole `groups`, dealt out by their tokens: the shares are those of groups of one length; where
    lengths differ, a process with longer ones gets fewer. `micro_batches` is counted where every
    sequence is as long as can be. Passes are those of the policy, the reference and the critic
    together. `busy_drawing` processes have something to draw.
    """

    num_ranks: int
    problems: Share
    call_completions: int
    updates: int
    groups: Share
    sequences: int
    micro_batches: int
    passes_with_gradient: int
    passes_without: int
    busy_drawing: int
    fullest: Shape
    full_positions: int

    @property
    def fill(self) -> float:
        """How much larger than `fullest` a micro-batch of shorter sequences may be, 1 or more."""
        return max(1.0, self.full_positions / self.fullest.num_positions)


def plan_step(
    recipe: Recipe,
    algorithm: Algorithm,
    *,
    num_ranks: int,
    longest_prompt_tokens: int,
    needs_reference: bool,
    shares_prompts: bool,
) -> Plan:
    """Derive everything from `problems_per_step`, `group_size` and `tokens_per_micro_batch`;
    `shares_prompts`: see `pack`."""
    rollout, optim = recipe.rollout, recipe.optim
    groups = Share.of(groups_of_an_update(recipe).most, num_ranks)
    problems = Share.of(num_drawn(recipe), num_ranks)
    whole_group = Shape(
        num_prompts=1,
        rows_per_prompt=rollout.group_size,
        prompt_tokens=longest_prompt_tokens,
        response_tokens=rollout.max_new_tokens,
        shares_prompts=shares_prompts,
    )
    fullest = _fullest(whole_group, budget=optim.tokens_per_micro_batch, num_groups=groups.most)
    micro_batches = math.ceil(groups.most / fullest.num_prompts)
    micro_batches *= math.ceil(rollout.group_size / fullest.rows_per_prompt)
    updates = optim.updates_per_batch * optim.epochs
    passes = _passes(recipe, algorithm, needs_reference=needs_reference)
    prepared = micro_batches * optim.updates_per_batch
    return Plan(
        num_ranks=num_ranks,
        problems=problems,
        call_completions=_call_completions(recipe, num_ranks),
        updates=updates,
        groups=Share(least=groups_of_an_update(recipe).least // num_ranks, most=groups.most),
        sequences=groups.most * rollout.group_size,
        micro_batches=micro_batches,
        passes_with_gradient=passes.with_gradient * prepared * optim.epochs,
        passes_without=prepared * (passes.once + passes.each_epoch * optim.epochs),
        busy_drawing=min(num_ranks, num_drawn(recipe)),
        fullest=fullest,
        full_positions=min(optim.tokens_per_micro_batch, groups.most * whole_group.num_positions),
    )


def num_drawn(recipe: Recipe) -> int:
    """Return how many problems a step's first call asks for."""
    probe = recipe.curriculum.probe
    return recipe.rollout.problems_per_step if probe is None else probe.problems


def groups_of_an_update(recipe: Recipe) -> Share:
    """Return how many groups an update learns from, where the gates let all through."""
    return Share.of(recipe.rollout.problems_per_step, recipe.optim.updates_per_batch)


def most_of_step(recipe: Recipe) -> int:
    """Return how many completions a step generates at most, refills or probes included."""
    rollout, probe = recipe.rollout, recipe.curriculum.probe
    if probe is not None:
        return most_completions(
            num_init=probe.completions,
            num_rest=rollout.group_size - probe.completions,
            max_finished=rollout.problems_per_step,
            num_probes=probe.problems,
        )
    whole = rollout.problems_per_step * rollout.group_size
    return whole * (1 + recipe.curriculum.refill.max_rounds)


def remarks(recipe: Recipe, plan: Plan) -> Iterator[str]:
    """Say which processes have nothing to do, or less than others, and the way out."""
    ranks, count, asked = plan.num_ranks, num_drawn(recipe), "rollout.problems_per_step"
    warmup_steps, steps = recipe.optim.warmup_steps, recipe.run.steps
    if warmup_steps > steps:
        yield (
            f"optim.warmup_steps={warmup_steps} with run.steps={steps}: the learning rate never "
            "rises to optim.lr"
        )
    if recipe.curriculum.probe is not None:
        asked = "curriculum.probe.problems"
    if plan.busy_drawing < ranks:
        yield (
            f"{asked}={count} with {ranks} processes: {_named(count, ranks)} nothing to do, "
            f"for a group is never split; use {ranks} or more, or {count} processes"
        )
    elif count % ranks:
        yield (
            f"{asked}={count} with {ranks} processes: {ranks - count % ranks} of them have one "
            f"group less to generate and wait for the others; a multiple of {ranks} keeps all busy"
        )
    update = groups_of_an_update(recipe).least
    if update < min(ranks, recipe.rollout.problems_per_step):
        yield (
            f"an update learns from {update} groups "
            f"(rollout.problems_per_step={recipe.rollout.problems_per_step} over "
            f"optim.updates_per_batch={recipe.optim.updates_per_batch}) with {ranks} processes: "
            f"{_named(update, ranks)} nothing to learn from and run along empty"
        )


def _named(first: int, num_ranks: int) -> str:
    if num_ranks - first == 1:
        return f"process {first} has"
    return f"processes {first} to {num_ranks - 1} have"


def _call_completions(recipe: Recipe, num_ranks: int) -> int:
    """Return what one process generates in one call at most; requests are dealt out in turn."""
    rollout, probe = recipe.rollout, recipe.curriculum.probe
    if probe is None:
        return math.ceil(rollout.problems_per_step / num_ranks) * rollout.group_size
    rest = rollout.group_size - probe.completions
    finished = min(rollout.problems_per_step, probe.problems)
    left = rollout.problems_per_step - 1 if probe.problems > rollout.problems_per_step else 0
    both = math.ceil(finished / num_ranks) * rest
    both += math.ceil(probe.problems / num_ranks) * probe.completions
    return max(both, math.ceil((left + probe.problems) / num_ranks) * rest)


def _fullest(group: Shape, *, budget: int, num_groups: int) -> Shape:
    """Return the largest micro-batch of the longest sequences: whole groups, or else rows of one,
    of which the recipe's check keeps one from being too long.

    Shorter ones never come to more micro-batches: whatever fits in their place fits with them.
    """
    if whole := budget // group.num_positions:
        return replace(group, num_prompts=min(whole, num_groups))
    once = group.prompt_tokens if group.shares_prompts else 0
    of_each_row = group.response_tokens + group.prompt_tokens - once
    return replace(group, rows_per_prompt=(budget - once) // of_each_row)


@dataclass(frozen=True, kw_only=True)
class _Passes:
    """Passes over each micro-batch: with gradient in each epoch, without one in each epoch, and
    without one before the first update."""

    with_gradient: int
    each_epoch: int
    once: int


def _passes(recipe: Recipe, algorithm: Algorithm, *, needs_reference: bool) -> _Passes:
    """See `Preparer` and `PolicyObjective`, which run them."""
    critic = int(algorithm.critic is not None)
    reference = int(needs_reference and recipe.kl.against == "ref")
    is_fixed = fixes_start(recipe, algorithm, needs_reference=needs_reference)
    return _Passes(
        with_gradient=1 + critic,
        each_epoch=0 if is_fixed else reference,
        once=1 + reference + critic if is_fixed else 0,
    )


def fixes_start(recipe: Recipe, algorithm: Algorithm, *, needs_reference: bool) -> bool:
    """Say whether policy, reference and critic run once before the first update of a step."""
    several = recipe.optim.updates_per_batch * recipe.optim.epochs > 1
    in_reward = recipe.kl.placement == "reward" and needs_reference
    return several or in_reward or algorithm.critic is not None
