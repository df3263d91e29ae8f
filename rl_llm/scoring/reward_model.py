"""A reward model: a Hugging Face sequence classifier with one logit, kept in a worker.

Nothing here imports torch before a model is loaded.
"""

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

from rl_llm.errors import ModelError
from rl_llm.plugins import model_place
from rl_llm.records import Prompt


class RewardModel:
    """A classifier and its tokenizer, ready to score."""

    def __init__(self, path: str, *, dtype: str, device: str) -> None:
        """Load both from a folder or the hub; raises `ModelError` for what is no reward model."""
        self._model, self._tokenizer = _load(path, dtype, device)
        self._tokenizer.truncation_side = "left"
        # The model finds a row's last token by this id; without one it can take no two rows.
        padding = getattr(self._model.config.get_text_config(), "pad_token_id", None)
        self._can_pad = padding is not None
        if self._can_pad:
            self._tokenizer.pad_token = self._tokenizer.convert_ids_to_tokens(padding)

    def scores(
        self, prompt: Prompt, completions: Sequence[str], *, max_length: int | None, batch_size: int
    ) -> list[float | None]:
        """Return the logit of each completion behind its prompt; None for a text without tokens.

        A chat goes through the model's chat template, the completion as the assistant's turn; a
        prompt that is a text stands before the completion as it is. Of more than `max_length`
        tokens the last are taken. The logit is the one that the text has alone in its batch.
        """
        is_chat = not isinstance(prompt, str)
        ids = self._tokenizer(
            [self._text(prompt, completion) for completion in completions],
            add_special_tokens=not is_chat,
            truncation=max_length is not None,
            max_length=max_length,
        )["input_ids"]
        rows = [row for row, found in enumerate(ids) if found]
        size = batch_size if self._can_pad else 1
        logits: list[float | None] = [None] * len(ids)
        for start in range(0, len(rows), size):
            part = rows[start : start + size]
            for row, logit in zip(part, self._logits([ids[row] for row in part]), strict=True):
                logits[row] = logit
        return logits

    def _text(self, prompt: Prompt, completion: str) -> str:
        if isinstance(prompt, str):
            text = prompt + completion
        else:
            turns = [*map(dict, prompt), {"role": "assistant", "content": completion}]
            text = self._tokenizer.apply_chat_template(turns, tokenize=False)
        # Half a character, as decoding may leave it, is nothing that a tokenizer takes.
        return text.encode("utf-8", "replace").decode("utf-8")

    def _logits(self, ids: Sequence[Sequence[int]]) -> Iterator[float]:
        """Yield the logits of one batch, padded on the right, where positions count from 0."""
        given = self._tokenizer.pad(
            {"input_ids": ids}, padding=self._can_pad, padding_side="right", return_tensors="pt"
        )
        yield from self._model(**given.to(self._model.device)).logits[:, 0].float().tolist()


@cache
def reward_model_at(path: str, dtype: str, device: str) -> RewardModel:
    """Return a reward model, loaded once a process."""
    return RewardModel(path, dtype=dtype, device=device)


def existing_model(path: str) -> str:
    """Return a path that is a folder, or may be a name on the hub; raises `ValueError` for another
    one."""
    if model_place(path) is None:
        raise ValueError(
            "this is not a folder; give the folder of a sequence classifier with one logit, or its "
            "name on the hub"
        )
    return path


def _load(path: str, dtype: str, device: str) -> tuple[Any, Any]:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    place = model_place(path) or path
    try:
        model, found = AutoModelForSequenceClassification.from_pretrained(
            place, dtype=dtype, output_loading_info=True
        )
        tokenizer = AutoTokenizer.from_pretrained(place)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise ModelError(
            f"model={path!r} is no sequence classifier with a tokenizer that transformers can "
            f"load: {' '.join(str(error).split())}"
        ) from None
    if missing := sorted(found["missing_keys"]):
        raise ModelError(
            f"model={path!r} holds no weights for {', '.join(missing[:3])}, so its scores would be "
            "random; name a model that was trained to score, as a sequence classifier"
        )
    num_logits = model.config.num_labels
    if num_logits != 1:
        raise ModelError(
            f"model={path!r} has {num_logits} logits, and a reward model has one; name another "
            "model, or write a reward of your own that makes one number of them"
        )
    # Without a parameter that wants a gradient, nothing is kept for one.
    return model.requires_grad_(False).to(device).eval(), tokenizer
