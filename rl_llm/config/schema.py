"""The recipe: what a user may write, with every default.

Sections are frozen and refuse unknown keys. A `NamedPart` (`{name: X, ...}`) or a plugin use
(`{use: X, ...}`) carries the options of X unread: they are checked against X's own keyword
arguments where the parts are put together.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Positive = Annotated[int, Field(gt=0)]
NonNegative = Annotated[int, Field(ge=0)]


class Section(BaseModel):
    """Base of all recipe sections: frozen, strict, no unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class OpenSection(BaseModel):
    """A section whose further keys are the options of the part that it names."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)

    @property
    def options(self) -> dict[str, Any]:
        """The keys that the schema does not know."""
        return dict(self.model_extra or {})


class NamedPart(OpenSection):
    """`{name: X, ...}`: X is a built-in part or `path/to/file.py:Class`; further keys are its
    options."""

    name: str


class SourceUse(OpenSection):
    """`{use: X, ...}`: a prompt source of `data/`, of a file or of an installed package, with its
    options."""

    use: str


class RewardUse(OpenSection):
    """`{use: X, ...}`: a reward, its weight in the total, its channel, and what happens when it
    fails."""

    use: str
    weight: float = 1.0
    channel: str = "correctness"
    correct_at: float = 1.0
    on_error: Literal["mask", "raise"] = "mask"


class RunSection(Section):
    """Name, seed and length of the run, and the folder that holds the run's folder."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    seed: NonNegative = 0
    steps: Positive
    output_dir: str = "runs"


class ModelSection(Section):
    """A Hugging Face causal language model: a local folder, or a hub name."""

    path: str
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    chat_template: str | None = Field(
        default=None,
        description="A Jinja chat template, or the path of a file that holds one; null uses the tokenizer's own.",
    )


class LoraSection(Section):
    """The adapter that is trained: rank, alpha, and the layers it is put on."""

    rank: Positive = 16
    alpha: Annotated[float, Field(gt=0)] = 32.0
    targets: str | list[str] = "all-linear"


class DataSection(Section):
    """Prompt sources for training and for held-out evaluation."""

    train: Annotated[list[SourceUse], Field(min_length=1)]
    eval: list[SourceUse] = []
    max_prompt_tokens: Positive = 512
    too_long: Literal["drop", "error"] = "drop"


class RefillSection(Section):
    """How many more rounds of prompts a step may draw to replace the groups that gates dropped."""

    max_rounds: NonNegative = 0
    when_dry: Literal["continue", "stop"] = "continue"


class CurriculumSection(Section):
    """Which prompts are drawn, and which scored groups are learnt from."""

    sampler: NamedPart = NamedPart(name="posterior")
    gates: list[NamedPart] = [NamedPart(name="informative")]
    refill: RefillSection = RefillSection()


class RolloutSection(Section):
    """How completions are generated."""

    engine: Literal["transformers"] = "transformers"
    problems_per_step: Positive = 32
    group_size: Annotated[int, Field(ge=1)] = 8
    max_new_tokens: Positive = 256
    temperature: Annotated[float, Field(ge=0)] = 1.0
    max_batch_rows: Positive = 512


class KLSection(Section):
    """The penalty on the divergence from the reference, the model without its adapter."""

    controller: NamedPart = NamedPart(name="constant")
    estimator: Literal["k1", "k2", "k3"] = "k2"


class OptimSection(Section):
    """AdamW over the adapter, and how a step's groups are cut into updates and micro-batches."""

    lr: Annotated[float, Field(gt=0)] = 1e-4
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    warmup_steps: NonNegative = 0
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    grad_clip: Annotated[float, Field(gt=0)] = 1.0
    tokens_per_micro_batch: Positive = 8192
    updates_per_batch: Positive = 1
    epochs: Positive = 1


class EvalSection(Section):
    """Held-out evaluation: before the first step, every `every` steps, and after the last."""

    every: Positive = 50
    samples_per_problem: Positive = 1
    stop_when: Annotated[float, Field(gt=0, le=1)] | None = None


class CheckpointSection(Section):
    """A checkpoint every `every` steps and after the last; the newest `keep` stay."""

    every: Positive = 50
    keep: Positive = 2


class Recipe(Section):
    """One complete run."""

    run: RunSection
    model: ModelSection
    lora: LoraSection = LoraSection()
    data: DataSection
    rewards: Annotated[list[RewardUse], Field(min_length=1)]
    curriculum: CurriculumSection = CurriculumSection()
    rollout: RolloutSection = RolloutSection()
    algorithm: NamedPart = NamedPart(name="grpo")
    kl: KLSection = KLSection()
    optim: OptimSection = OptimSection()
    eval: EvalSection = EvalSection()
    checkpoint: CheckpointSection = CheckpointSection()
    tracking: list[Literal["jsonl", "tensorboard"]] = ["jsonl"]

    @model_validator(mode="after")
    def _agree(self) -> "Recipe":
        """Refuse settings that contradict each other."""
        for rule in (_check_batch, _check_schedule, _check_rewards):
            rule(self)
        return self


def _check_batch(recipe: Recipe) -> None:
    rollout, optim, data = recipe.rollout, recipe.optim, recipe.data
    if optim.updates_per_batch > rollout.problems_per_step:
        raise ValueError(
            f"optim.updates_per_batch={optim.updates_per_batch} cuts the groups of a step, "
            f"rollout.problems_per_step={rollout.problems_per_step}, into more parts than there are "
            f"groups; use at most {rollout.problems_per_step}"
        )
    longest = data.max_prompt_tokens + rollout.max_new_tokens
    if optim.tokens_per_micro_batch < longest:
        raise ValueError(
            f"optim.tokens_per_micro_batch={optim.tokens_per_micro_batch} cannot hold one "
            f"completion: data.max_prompt_tokens={data.max_prompt_tokens} and "
            f"rollout.max_new_tokens={rollout.max_new_tokens} need {longest}; "
            f"use at least {longest}"
        )


def _check_schedule(recipe: Recipe) -> None:
    optim, steps = recipe.optim, recipe.run.steps
    if optim.schedule != "constant" and optim.warmup_steps >= steps:
        raise ValueError(
            f"optim.warmup_steps={optim.warmup_steps} leaves nothing of run.steps={steps} for "
            f"the {optim.schedule} schedule; use fewer than {steps}"
        )
    if recipe.eval.stop_when is not None and not recipe.data.eval:
        raise ValueError(
            f"eval.stop_when={recipe.eval.stop_when} needs held-out problems; "
            "add a source under data.eval"
        )


def _check_rewards(recipe: Recipe) -> None:
    if all(reward.channel != "correctness" for reward in recipe.rewards):
        raise ValueError(
            "rewards: none is on channel 'correctness', from which pass rates and beliefs are "
            "learnt; give the reward that checks the answer `channel: correctness`"
        )
