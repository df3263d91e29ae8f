"""From a problem's prompt to token ids and back, in one place for every engine and for training."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jinja2 import TemplateError

from rl_llm.errors import ModelError
from rl_llm.records import Prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class PromptEncoder:
    """Encodes prompts with a model's tokenizer: plain text as it is, chats through the template."""

    def __init__(
        self, tokenizer: "PreTrainedTokenizerBase", *, chat_template: str | None = None
    ) -> None:
        """`chat_template` is a Jinja template or the path of a file with one; None keeps the
        tokenizer's."""
        self._tokenizer = tokenizer
        self._template = _read_template(chat_template) or tokenizer.chat_template

    def encode(self, prompt: Prompt) -> tuple[int, ...]:
        """Return the prompt's token ids; a chat ends with the opening of the assistant's turn."""
        if isinstance(prompt, str):
            return tuple(self._tokenizer(prompt)["input_ids"])
        if self._template is None:
            raise ModelError(
                f"the prompt is a chat of {len(prompt)} messages, and the tokenizer of "
                f"{self._tokenizer.name_or_path!r} has no chat template; set model.chat_template, "
                "or use plain prompts"
            )
        turns = [{"role": turn["role"], "content": turn["content"]} for turn in prompt]
        try:
            ids = self._tokenizer.apply_chat_template(
                turns,
                chat_template=self._template,
                add_generation_prompt=True,
                tokenize=True,
                return_dict=False,
            )
        except TemplateError as error:
            roles = ", ".join(turn["role"] for turn in turns)
            raise ModelError(
                f"the chat template refuses a prompt with the roles {roles}: {error}; mend "
                "model.chat_template, or give prompts that it takes"
            ) from None
        return tuple(ids)

    def decode(self, token_ids: Sequence[Sequence[int]]) -> list[str]:
        """Return the text of each sequence, without special tokens."""
        texts = self._tokenizer.batch_decode(list(map(list, token_ids)), skip_special_tokens=True)
        return list(texts)


def _read_template(chat_template: str | None) -> str | None:
    if chat_template is None or "{" in chat_template:
        return chat_template
    file = Path(chat_template).expanduser()
    if not file.is_file():
        raise ModelError(
            f"model.chat_template={chat_template!r} is neither a Jinja template nor a file; "
            "write the template itself, or the path of a file that holds it"
        )
    return file.read_text(encoding="utf-8")
