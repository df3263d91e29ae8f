"""The sections of a recipe that have no file of their own, with every default.

Sections are frozen and refuse unknown keys. A plugin use (`{use: X, ...}`) carries the options of X
unread: they are checked against X's own keyword arguments where the parts are put together. The
text under a field is its description in the JSON schema and in docs/recipes.md.
"""

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from rl_llm.config.base import (
    NonNegativeFloat,
    NonNegativeInt,
    OpenSection,
    PositiveFloat,
    PositiveInt,
    Section,
)


class SourceUse(OpenSection):
    """A prompt source, with its options as further keys."""

    use: str
    """A shipped or installed prompt source, or `path/to/file.py:name`."""

    endless: bool = False
    """Under `data.train` alone: a problem that was drawn gives way to a fresh one of its source and
    level."""


class RewardUse(OpenSection):
    """A reward, with its options as further keys."""

    use: str
    """A shipped or installed reward, or `path/to/file.py:name`."""

    weight: float = 1.0
    """Its factor in the total that the policy learns from."""

    channel: str = "correctness"
    """`correctness` decides whether a completion counts as correct; any other name only adds to the
    total."""

    correct_at: float = 1.0
    """On channel `correctness`: a completion is correct from this value on. On any channel: an
    `only_if` that names this reward holds from it on."""

    only_if: str | None = None
    """Counts only in completions in which the reward of this name reaches its `correct_at`; else it
    adds 0."""

    on_error: Literal["mask", "zero", "raise"] = "mask"
    """When the reward fails: leave the completion out of its group, count it as wrong and the
    reward as 0, or stop the run."""

    timeout_s: PositiveFloat = 30.0
    """How long one call may take before its worker process is ended; nothing limits a reward that
    runs inline."""

    memory_gib: PositiveFloat | None = None
    """The address space that its worker may have during a call; null sets no limit."""

    inline: bool | None = None
    """Call it in the process that trains: quicker, but what hangs or crashes takes the run along;
    null does so where its file says `INLINE = True` and `memory_gib` is null."""


_NAME = "^[A-Za-z0-9][A-Za-z0-9._-]*$"


def _check_name(name: str) -> str:
    if not re.fullmatch(_NAME, name):
        raise ValueError(
            "a run's folder is named by it: use letters of ASCII, digits, '.', '_' and '-', "
            "a letter or a digit first"
        )
    return name


class RunSection(Section):
    """Name, seed and length of the run."""

    name: Annotated[str, Field(json_schema_extra={"pattern": _NAME}), AfterValidator(_check_name)]
    """The run's folder is `output_dir/name`."""

    seed: NonNegativeInt = 0
    """Every random draw of the run derives from it."""

    steps: PositiveInt
    """How many steps to train; one step draws, scores and learns one batch of groups."""

    output_dir: str = "runs"
    """The folder that holds the folders of runs."""

    timeout_s: PositiveFloat = 1800.0
    """On several processes: how long one waits for the others before the run ends with an error."""


class ModelSection(Section):
    """A Hugging Face causal language model."""

    path: str
    """A folder, or a name on the model hub; `data/models/NAME` is a model that ships."""

    dtype: Literal["float32", "bfloat16"] = "float32"
    """The precision of weights and arithmetic; it alone decides."""

    chat_template: str | None = None
    """A Jinja chat template, or the path of a file with one; null uses the tokenizer's own. The
    tokenizer beside the adapter has it too."""


class LoraSection(Section):
    """The adapter that is trained; the model's own weights stay as they are."""

    rank: PositiveInt = 16
    """The rank of the update of each layer."""

    alpha: PositiveFloat = 32.0
    """The update is scaled by alpha / rank."""

    targets: str | list[str] = "all-linear"
    """The layers that get an adapter: `all-linear`, a list of names of modules, or a pattern
    (a regular expression) over their whole names."""


class DataSection(Section):
    """Where problems come from."""

    train: Annotated[list[SourceUse], Field(min_length=1)]
    """Prompt sources to learn from."""

    eval: list[SourceUse] = []
    """Prompt sources that are held out; they share no problem with `train`."""

    max_prompt_tokens: PositiveInt = 512
    """The longest prompt, in tokens, template included."""

    too_long: Literal["drop", "error"] = "drop"
    """A longer prompt is dropped and counted, or stops the run before it starts."""


class ScoringSection(Section):
    """Where rewards run that are not inline."""

    workers: PositiveInt | None = None
    """Processes that call rewards, on each rank; null takes the number of cores, at most 4."""


class OptimSection(Section):
    """AdamW over the adapter, and how a step's groups are cut into updates and micro-batches."""

    lr: PositiveFloat = 1e-4
    """The learning rate after warm-up."""

    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """After warm-up the learning rate stays, or falls towards 0 at the end of the run."""

    warmup_steps: NonNegativeInt = 0
    """Steps over which the learning rate rises from 0."""

    weight_decay: NonNegativeFloat = 0.0
    """Of AdamW."""

    grad_clip: PositiveFloat = 1.0
    """The largest norm of the gradient; a longer one is scaled down to it."""

    tokens_per_micro_batch: PositiveInt = 8192
    """Tokens in one forward and backward pass on one rank, padding and each run of a prompt
    included; lower it when memory is short."""

    gradient_checkpointing: bool = False
    """Keep each layer's input alone and run the layer again for its gradient: much less memory,
    about a third more time, and a prompt runs, and counts, once for each completion."""

    updates_per_batch: PositiveInt = 1
    """Optimiser steps that share out the groups of a step."""

    epochs: PositiveInt = 1
    """Passes over the groups of a step."""


class EvalSection(Section):
    """Held-out evaluation: before the first step, every `every` steps, and after the last."""

    every: PositiveInt = 50
    """Steps from one evaluation to the next."""

    samples_per_problem: PositiveInt = 1
    """Completions drawn for each evaluated problem."""

    train_problems: NonNegativeInt = 0
    """Problems of the training pool that each evaluation measures too, always the same."""

    stop_when: Annotated[float, Field(gt=0, le=1)] | None = None
    """End the run once the held-out pass rate, evaluated behind a step, reaches this."""


class CheckpointSection(Section):
    """A checkpoint every `every` steps and after the last."""

    every: PositiveInt = 50
    """Steps from one checkpoint to the next."""
    keep: PositiveInt = 2
    """How many of the newest checkpoints stay."""


class HubSection(Section):
    """A repository on the Hugging Face Hub that gets the adapter."""

    repo_id: str | None = None
    """`owner/name`, or `name` alone for one of your own; null pushes nothing."""

    private: bool = True
    """Make the repository private, and push to none that all can see; false allows both."""

    push: list[Literal["checkpoint", "end"]] = ["end"]
    """`end` pushes the final adapter to `main`, `checkpoint` each checkpoint's to a branch such as
    `step-000050`."""

    max_wait_s: PositiveFloat = 300.0
    """How long one push may take, and the end of the run waits for all that are not done."""
