"""From a problem's prompt to token ids and back, in one place for every engine and for training."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError

from rl_llm.errors import ModelError
from rl_llm.records import Prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class PromptEncoder:
    """Encodes prompts with a model's tokenizer: plain text as it is, chats through the template."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase") -> None:
        """Chats take the tokenizer's template as it is now; of several, the default."""
        self._tokenizer = tokenizer
        templates = tokenizer.chat_template
        self._template = templates.get("default") if isinstance(templates, dict) else templates

    @property
    def unknown_token(self) -> str | None:
        """What the tokenizer reads where it knows nothing else; None where it has no such token."""
        token = self._tokenizer.unk_token
        return None if token is None else str(token)

    def num_unknown(self, token_ids: Sequence[int]) -> int:
        """Return how many ids are those of the unknown token, whatever it stands for there."""
        unknown_id = self._tokenizer.unk_token_id
        return 0 if unknown_id is None else token_ids.count(unknown_id)

    def unread(self, prompt: Prompt) -> list[str]:
        """Return the pieces of a prompt for which the tokenizer has nothing but its unknown token.

        Where that token is written out in the text, or put there without any text, as one that is
        also the first of a sequence may be, it is no such piece. A tokenizer that cannot say where
        its tokens stand gives none.
        """
        if not self._tokenizer.is_fast or self._tokenizer.unk_token_id is None:
            return []
        is_text = isinstance(prompt, str)
        text = str(prompt) if is_text else self._apply(prompt, tokenize=False)
        read = self._tokenizer(text, add_special_tokens=is_text, return_offsets_mapping=True)
        pieces = [
            text[start:end]
            for token_id, (start, end) in zip(
                read["input_ids"], read["offset_mapping"], strict=True
            )
            if token_id == self._tokenizer.unk_token_id
        ]
        return [piece for piece in pieces if piece not in ("", self.unknown_token)]

    def encode(self, prompt: Prompt) -> tuple[int, ...]:
        """Return the prompt's token ids; a chat ends with the opening of the assistant's turn."""
        if isinstance(prompt, str):
            return tuple(self._tokenizer(prompt)["input_ids"])
        return tuple(self._apply(prompt, tokenize=True))

    def _apply(self, prompt: Prompt, *, tokenize: bool) -> Any:
        """Return a chat as the template writes it, as text or as ids."""
        assert not isinstance(prompt, str)
        if self._template is None:
            raise ModelError(
                f"the prompt is a chat of {len(prompt)} messages, and the tokenizer of "
                f"{self._tokenizer.name_or_path!r} has {self._without_template()}, or use plain "
                "prompts"
            )
        turns = [{"role": turn["role"], "content": turn["content"]} for turn in prompt]
        try:
            return self._tokenizer.apply_chat_template(
                turns,
                chat_template=self._template,
                add_generation_prompt=True,
                tokenize=tokenize,
                return_dict=False,
            )
        except TemplateError as error:
            roles = ", ".join(turn["role"] for turn in turns)
            raise ModelError(
                f"the chat template refuses a prompt with the roles {roles}: {error}; mend "
                "model.chat_template, or give prompts that it takes"
            ) from None

    def _without_template(self) -> str:
        """Say what the tokenizer has in place of a template for chats, and the way out."""
        templates = self._tokenizer.chat_template
        if not templates:
            return "no chat template; set model.chat_template"
        return (
            f"the chat templates {', '.join(sorted(templates))} and no default; "
            "set model.chat_template to the one that is meant, its text or a file with it"
        )

    def decode(self, token_ids: Sequence[Sequence[int]]) -> list[str]:
        """Return the text of each sequence, without special tokens."""
        texts = self._tokenizer.batch_decode(list(map(list, token_ids)), skip_special_tokens=True)
        return list(texts)
