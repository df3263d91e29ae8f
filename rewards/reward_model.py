"""The score of a reward model: any Hugging Face sequence classifier with one logit."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, PositiveInt

from rl_llm.records import Prompt
from rl_llm.scoring.reward_model import existing_model, reward_model_at

EXAMPLES: list[object] = []  # The model says what it gives.


def reward_model(
    completions: Sequence[str],
    prompt: Prompt,
    *,
    model: Annotated[str, AfterValidator(existing_model)],
    max_length: PositiveInt | None = None,
    batch_size: PositiveInt = 8,
    dtype: Literal["float32", "bfloat16", "float16"] = "float32",
    device: Annotated[str, Field(pattern=r"^(cpu|mps|(cuda|xpu)(:\d+)?)$")] = "cpu",
) -> list[float | None]:
    """The logit that a sequence classifier gives to the prompt with the completion.

    Of more than `max_length` tokens the last count.
    """
    judge = reward_model_at(model, dtype, device)
    return judge.scores(prompt, completions, max_length=max_length, batch_size=batch_size)


def before_calls(options: Mapping[str, Any]) -> None:
    """Load the model, which no call then takes the time of."""
    reward_model_at(options["model"], options["dtype"], options["device"])
