"""What the tokenizer cannot read of the prompts: a model sees one token for all of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rl_llm.records import Problem
from rl_llm.rollout.prompts import PromptEncoder

_MOST_SHOWN = 12


@dataclass(frozen=True, kw_only=True)
class Unread:
    """How many prompts hold the tokenizer's unknown token, and how many of their tokens are it.

    `first` holds what is not read of the first such prompt, empty where there is none.
    """

    num_prompts: int
    num_unread_prompts: int
    num_tokens: int
    num_unread_tokens: int
    unknown_token: str
    first: Sequence[str] = ()

    @property
    def is_most(self) -> bool:
        """Whether more than half of all tokens, in more than half of the prompts, are unknown."""
        return (
            2 * self.num_unread_tokens > self.num_tokens
            and 2 * self.num_unread_prompts > self.num_prompts
        )

    def lines(self, model_path: str) -> list[str]:
        """Return what a person should know of it before a run; nothing where all is read."""
        if not self.num_unread_prompts:
            return []
        pieces = [*dict.fromkeys(self.first)]
        shown = ", ".join(map(repr, pieces[:_MOST_SHOWN]))
        more = f" and {len(pieces) - _MOST_SHOWN} more" if len(pieces) > _MOST_SHOWN else ""
        share = 100 * self.num_unread_tokens / self.num_tokens
        return [
            f"{self.num_unread_prompts} of {self.num_prompts} prompts hold what the tokenizer of "
            f"model.path={model_path!r} cannot read: {self.num_unread_tokens} of the "
            f"{self.num_tokens} tokens of all prompts ({share:.2g} %) are "
            f"{self.unknown_token!r}, from which the model cannot tell what stood there; of the "
            f"first such prompt it is {shown}{more}; use a model whose tokenizer reads the "
            "prompts, or other data"
        ]


def find_unread(
    problems: Sequence[Problem], encoder: PromptEncoder, *, counts: Mapping[str, tuple[int, int]]
) -> Unread:
    """Look for the unknown token in prompts; `counts` holds, by key, how many tokens each has, and
    how many of them have the id of the unknown token."""
    suspects = [problem for problem in problems if counts[problem.key][1]]
    found = [pieces for each in suspects if (pieces := encoder.unread(each.prompt))]
    return Unread(
        num_prompts=len(problems),
        num_unread_prompts=len(found),
        num_tokens=sum(counts[problem.key][0] for problem in problems),
        num_unread_tokens=sum(map(len, found)),
        unknown_token=encoder.unknown_token or "",
        first=found[0] if found else (),
    )
