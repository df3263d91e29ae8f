"""The recipe: its sections, and which settings contradict each other.

A section has a file of its own, or stands in `sections.py`. A `NamedPart` (`{name: X, ...}`)
carries the options of X unread: they are checked against X's own keyword arguments where the parts
are put together.
"""

from collections.abc import Iterator
from typing import Annotated

from pydantic import Field, model_validator

from rl_llm.config.alarms import AlarmsSection
from rl_llm.config.base import NamedPart, Section
from rl_llm.config.curriculum import CurriculumSection
from rl_llm.config.kl import KLSection
from rl_llm.config.kl_faults import kl_faults
from rl_llm.config.rollout import RolloutSection
from rl_llm.config.rollout_faults import rollout_faults
from rl_llm.config.sections import (
    CheckpointSection,
    DataSection,
    EvalSection,
    HubSection,
    LoraSection,
    ModelSection,
    OptimSection,
    RewardUse,
    RunSection,
    ScoringSection,
)
from rl_llm.config.tracking import TrackerName, TrackerUse, tracking_faults


class Recipe(Section):
    """One complete run of rl-llm."""

    run: RunSection
    model: ModelSection
    lora: LoraSection = LoraSection()
    data: DataSection
    rewards: Annotated[list[RewardUse], Field(min_length=1)]
    """What a completion is worth: the weighted sum of these."""
    scoring: ScoringSection = ScoringSection()
    curriculum: CurriculumSection = CurriculumSection()
    rollout: RolloutSection = RolloutSection()
    algorithm: NamedPart = NamedPart(name="grpo")
    """The rule that turns rewards into an update."""

    kl: KLSection = KLSection()
    optim: OptimSection = OptimSection()
    eval: EvalSection = EvalSection()
    checkpoint: CheckpointSection = CheckpointSection()
    alarms: AlarmsSection = AlarmsSection()
    hub: HubSection = HubSection()
    tracking: list[TrackerName | TrackerUse] = ["jsonl"]
    """Where metrics go; metrics.jsonl is written in any case."""

    @property
    def trackers(self) -> dict[str, TrackerUse]:
        """What `tracking` names, each in its long form."""
        return {use.name: use for use in map(TrackerUse.of, self.tracking)}

    @model_validator(mode="after")
    def _agree(self) -> "Recipe":
        """Refuse settings that contradict each other, all at once."""
        rules = (
            *(_batch_faults, _rollout_faults, _schedule_faults, _reward_faults, _kl_faults),
            *(_curriculum_faults, _hub_faults, _tracking_faults),
        )
        if faults := [fault for rule in rules for fault in rule(self)]:
            raise ValueError("\n  ".join(faults))
        return self


def _batch_faults(recipe: Recipe) -> Iterator[str]:
    rollout, optim, data = recipe.rollout, recipe.optim, recipe.data
    if optim.updates_per_batch > rollout.problems_per_step:
        yield (
            f"optim.updates_per_batch={optim.updates_per_batch} cuts the groups of a step, "
            f"rollout.problems_per_step={rollout.problems_per_step}, into more parts than there "
            f"are groups; use at most {rollout.problems_per_step}"
        )
    longest = data.max_prompt_tokens + rollout.max_new_tokens
    if optim.tokens_per_micro_batch < longest:
        yield (
            f"optim.tokens_per_micro_batch={optim.tokens_per_micro_batch} cannot hold one "
            f"completion: data.max_prompt_tokens={data.max_prompt_tokens} and "
            f"rollout.max_new_tokens={rollout.max_new_tokens} need {longest}; "
            f"use at least {longest}"
        )


def _rollout_faults(recipe: Recipe) -> Iterator[str]:
    return rollout_faults(recipe.rollout, recipe.kl, num_steps=recipe.run.steps)


def _schedule_faults(recipe: Recipe) -> Iterator[str]:
    optim, steps = recipe.optim, recipe.run.steps
    if optim.schedule != "constant" and optim.warmup_steps >= steps:
        yield (
            f"optim.warmup_steps={optim.warmup_steps} leaves nothing of run.steps={steps} for "
            f"the {optim.schedule} schedule; use fewer than {steps}"
        )
    if recipe.eval.stop_when is not None and not recipe.data.eval:
        yield (
            f"eval.stop_when={recipe.eval.stop_when} needs held-out problems; "
            "add a source under data.eval"
        )


def _reward_faults(recipe: Recipe) -> Iterator[str]:
    if all(reward.channel != "correctness" for reward in recipe.rewards):
        yield (
            "rewards: none is on channel 'correctness', from which pass rates and beliefs are "
            "learnt; give the reward that checks the answer `channel: correctness`"
        )
    if recipe.rewards and all(reward.weight == 0 for reward in recipe.rewards):
        yield (
            "rewards: all have weight 0, so every total is 0 and there is nothing to learn; give "
            "one of them a weight, such as `weight: 1.0` to the reward that checks the answer"
        )
    for index, reward in enumerate(recipe.rewards):
        if reward.inline and reward.memory_gib is not None:
            yield (
                f"rewards.{index}.memory_gib={reward.memory_gib:g} with inline: true: only "
                "a worker can be limited; leave one of the two out"
            )


def _kl_faults(recipe: Recipe) -> Iterator[str]:
    optim = recipe.optim
    return kl_faults(
        recipe.kl,
        updates_per_step=optim.updates_per_batch * optim.epochs,
        has_held_out=bool(recipe.data.eval),
        num_steps=recipe.run.steps,
        eval_every=recipe.eval.every,
    )


def _curriculum_faults(recipe: Recipe) -> Iterator[str]:
    probe, group_size = recipe.curriculum.probe, recipe.rollout.group_size
    if probe is not None and not 2 <= probe.completions < group_size:
        way_out = (
            f"use 2 to {group_size - 1}" if group_size > 3 else "use 2, and group_size 4 or more"
        )
        yield (
            f"curriculum.probe.completions={probe.completions} with "
            f"rollout.group_size={group_size}: a probe takes at least 2 completions, to show both "
            f"outcomes, and leaves some for later; {way_out}"
        )
    if probe is not None and recipe.curriculum.refill.max_rounds:
        yield (
            f"curriculum.refill.max_rounds={recipe.curriculum.refill.max_rounds} with "
            "curriculum.probe: probes already keep groups without a mixed outcome from being "
            "finished; use max_rounds 0 or probe null"
        )
    if recipe.curriculum.gates == [] and recipe.curriculum.refill.max_rounds:
        yield (
            f"curriculum.refill.max_rounds={recipe.curriculum.refill.max_rounds} with "
            "curriculum.gates=[]: no group is dropped, so there is nothing to refill; use "
            "max_rounds 0, or name a gate"
        )
    if recipe.curriculum.refill.enough < 1.0 and not recipe.curriculum.refill.max_rounds:
        yield (
            f"curriculum.refill.enough={recipe.curriculum.refill.enough:g} with "
            "curriculum.refill.max_rounds=0: a step never draws again, so nothing reads it; set "
            "max_rounds, such as 4, or leave enough out"
        )
    if recipe.curriculum.refill.within != "bucket" and not recipe.curriculum.refill.max_rounds:
        yield (
            f"curriculum.refill.within={recipe.curriculum.refill.within} with "
            "curriculum.refill.max_rounds=0: a step never draws again, so nothing reads it; set "
            "max_rounds, such as 4, or leave within out"
        )
    defer = recipe.curriculum.defer
    if defer is not None and defer.most_steps < defer.first_steps:
        yield (
            f"curriculum.defer.most_steps={defer.most_steps} with "
            f"curriculum.defer.first_steps={defer.first_steps}: the longest wait must not be "
            f"shorter than the first; use most_steps {defer.first_steps} or more, or a lower "
            "first_steps"
        )
    if recipe.curriculum.learn_from_eval and not recipe.eval.train_problems:
        yield (
            "curriculum.learn_from_eval=true with eval.train_problems=0: beliefs never learn from "
            "held-out problems; set eval.train_problems, such as 64"
        )


def _hub_faults(recipe: Recipe) -> Iterator[str]:
    if recipe.hub.repo_id is not None and not recipe.hub.push:
        yield (
            "hub.push=[] with hub.repo_id: nothing would ever be pushed; name end, checkpoint or "
            "both, or set hub.repo_id to null"
        )


def _tracking_faults(recipe: Recipe) -> Iterator[str]:
    return tracking_faults(recipe.tracking)
