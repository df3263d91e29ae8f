"""What a recipe reads: the model with its tokenizer, the problems, and the rewards."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from rl_llm import problems
from rl_llm.cli.unread import Unread, find_unread
from rl_llm.config import Recipe
from rl_llm.curriculum.supply import Stream
from rl_llm.policy import (
    Ranks,
    check_precision,
    load_base,
    load_tokenizer,
    stop_token_ids,
)
from rl_llm.problems import Pool
from rl_llm.records import Problem
from rl_llm.rollout.prompts import PromptEncoder
from rl_llm.scoring import Rubric, build_rubric, common_columns


@dataclass(frozen=True, kw_only=True)
class Model:
    """A base model with everything that is read from beside it."""

    base: Any
    tokenizer: PreTrainedTokenizerBase
    encoder: PromptEncoder
    stop_ids: Sequence[int]

    @property
    def pad_id(self) -> int:
        """The id that fills masked positions; which one does not matter."""
        return min(self.stop_ids)


def load_model(recipe: Recipe, ranks: Ranks) -> Model:
    """Load the base model and its tokenizer."""
    check_precision(recipe.model.dtype)
    tokenizer = load_tokenizer(recipe.model.path, chat_template=recipe.model.chat_template)
    base = load_base(recipe.model.path, dtype=recipe.model.dtype, device=ranks.device)
    return Model(
        base=base,
        tokenizer=tokenizer,
        encoder=PromptEncoder(tokenizer),
        stop_ids=stop_token_ids(base, tokenizer),
    )


@dataclass(frozen=True, kw_only=True)
class Data:
    """Both pools, without what is too long, what the tokenizer cannot read of them, and the rubric
    that scores them."""

    train: Pool
    held_out: Pool
    streams: Sequence[Stream]
    rubric: Rubric
    longest_prompt_tokens: int
    unread: Unread


def load_data(recipe: Recipe, encoder: PromptEncoder) -> Data:
    """Read both pools, refuse a problem that stands in both, and bind the rewards to their
    columns."""
    train = problems.load_pool(recipe.data.train, where="data.train")
    held_out = Pool(problems=(), num_read=0, where="data.eval")
    if recipe.data.eval:
        held_out = problems.load_pool(recipe.data.eval, where="data.eval")
    problems.check_disjoint(train, held_out)
    counts: dict[str, tuple[int, int]] = {}  # Of all tokens, and of the unknown one.

    def num_tokens(problem: Problem) -> int:
        ids = encoder.encode(problem.prompt)
        counts[problem.key] = len(ids), encoder.num_unknown(ids)
        return len(ids)

    limit, policy = recipe.data.max_prompt_tokens, recipe.data.too_long
    train, held_out = (
        problems.drop_too_long(pool, num_tokens, max_prompt_tokens=limit, policy=policy)
        for pool in (train, held_out)
    )
    kept = [*train.problems, *held_out.problems]
    return Data(
        train=train,
        held_out=held_out,
        streams=problems.checked_streams(
            train,
            held_out,
            lambda problem: len(encoder.encode(problem.prompt)),
            max_prompt_tokens=limit,
        ),
        rubric=build_rubric(
            recipe.rewards,
            columns=common_columns(kept),
            problems=kept,
            num_workers=recipe.scoring.workers,
        ),
        # A fresh prompt of a stream may be longer than any that was read.
        longest_prompt_tokens=limit if train.streams else max(counts[p.key][0] for p in kept),
        unread=find_unread(kept, encoder, counts=counts),
    )
