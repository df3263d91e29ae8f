"""From scored groups to token batches: what is trained on, who trains on it, and in which pieces.

Legend: P prompts, G completions of each, B rows (completions), L prompt positions, T response
positions.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rl_llm.algorithms import Algorithm, ScoredBatch, Totals
from rl_llm.errors import PluginError
from rl_llm.records import ScoredGroup

_ENDLESS = 2**31


@dataclass(frozen=True, kw_only=True)
class TrainRow:
    """One completion to learn from: its tokens, the engine's logprobs of them, and its advantage.

    `is_stale` is True when weights older than those of the update's start drew it; the engine's
    logprobs alone then say what those weights thought. `token_rewards` (T) is that of its score: ()
    where no reward is per token.
    """

    token_ids: tuple[int, ...]
    engine_logprobs: tuple[float, ...]
    advantage: float
    is_stale: bool = False
    token_rewards: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True)
class TrainGroup:
    """The rows of one prompt that are learnt from; never split across ranks."""

    prompt_ids: tuple[int, ...]
    rows: tuple[TrainRow, ...]

    @property
    def num_tokens(self) -> int:
        """Tokens that run through the model: the prompt once, and every response."""
        return len(self.prompt_ids) + sum(len(row.token_ids) for row in self.rows)


@dataclass(frozen=True, kw_only=True)
class TokenBatch:
    """One micro-batch: prompts padded on the left, responses on the right.

    The first `rows_per_prompt_P[0]` rows belong to prompt 0, and so on. `response_mask_BT` is True
    on real response tokens, the end-of-sequence token included. `is_stale_B` is that of
    `TrainRow`. `rewards_BT` is for algorithms with a critic, where `advantage` is the reward of the
    whole completion: its rewards per token stand where they were given, the rest of it at the last
    response token, and 0 outside the mask.
    """

    prompt_ids_PL: Tensor
    prompt_mask_PL: Tensor
    rows_per_prompt_P: Tensor
    response_ids_BT: Tensor
    response_mask_BT: Tensor
    advantages_BT: Tensor
    engine_logprobs_BT: Tensor
    is_stale_B: Tensor
    rewards_BT: Tensor


def score_batch(
    groups: Sequence[ScoredGroup],
    *,
    weights: Mapping[str, float] | None = None,
    max_response_tokens: int | None = None,
) -> ScoredBatch:
    """Return the rewards of groups of any sizes, padded to the largest; failed rewards do not
    count.

    `weights` names every reward with its weight; without it the parts are not known, and R is 0.
    Without `max_response_tokens` it is the length of completions that ran into the limit, and where
    none did, so many that every one is short beside it.
    """
    largest = max((len(group.scores) for group in groups), default=1)
    weights = {} if weights is None else weights
    rewards_PG = torch.zeros(len(groups), largest, dtype=torch.float64)
    counted_PG = torch.zeros(len(groups), largest, dtype=torch.bool)
    parts_PGR = torch.zeros(len(groups), largest, len(weights), dtype=torch.float64)
    lengths_PG = torch.zeros(len(groups), largest, dtype=torch.int64)
    for p, group in enumerate(groups):
        for g, (completion, score) in enumerate(
            zip(group.group.completions, group.scores, strict=True)
        ):
            if score.error is None:
                counted_PG[p, g] = True
                rewards_PG[p, g] = score.total
                lengths_PG[p, g] = len(completion.token_ids)
                for r, (name, weight) in enumerate(weights.items()):
                    if name not in score.held_back:
                        parts_PGR[p, g, r] = weight * score.parts.get(name, 0.0)
    return ScoredBatch(
        rewards_PG=rewards_PG,
        counted_PG=counted_PG,
        parts_PGR=parts_PGR,
        weights_R=torch.tensor(list(weights.values()), dtype=torch.float64),
        lengths_PG=lengths_PG,
        max_response_tokens=max_response_tokens or _longest_allowed(groups),
    )


def check_advantages(advantages_PG: object, scored: ScoredBatch, *, name: str) -> Tensor:
    """Return the advantages, or raise `PluginError` where they are not a number for each
    completion; an algorithm may be anybody's, and `name` is what the recipe calls it."""
    expected = tuple(scored.rewards_PG.shape)
    if isinstance(advantages_PG, Tensor) and tuple(advantages_PG.shape) == expected:
        return advantages_PG
    found = (
        f"a tensor of shape {tuple(advantages_PG.shape)}"
        if isinstance(advantages_PG, Tensor)
        else repr(advantages_PG)[:200]
    )
    raise PluginError(
        f"algorithm {name!r}: its advantages are {found}; they must be a tensor of the rewards' "
        f"shape, {expected} here, with a number for each completion of each group"
    )


def train_groups(
    groups: Sequence[ScoredGroup],
    advantages_PG: Tensor,
    algorithm: Algorithm,
    *,
    version: int | None = None,
) -> list[TrainGroup]:
    """Return what an algorithm learns from.

    Left out: completions whose reward failed, truncated ones where the algorithm masks them, empty
    ones, and, with a group baseline, groups without any advantage. `version` is that of the weights
    that the update starts from; without it, that of the newest completion. Rows of older versions
    are stale.
    """
    if version is None:
        completions = (c for group in groups for c in group.group.completions)
        version = max((c.policy_version for c in completions), default=0)
    kept = []
    for group, advantages in zip(groups, advantages_PG.tolist(), strict=True):
        if algorithm.has_group_baseline and not any(advantages):
            continue
        rows = tuple(
            TrainRow(
                token_ids=completion.token_ids,
                engine_logprobs=completion.logprobs,
                advantage=advantage,
                is_stale=completion.policy_version < version,
                token_rewards=score.token_rewards,
            )
            for completion, score, advantage in zip(
                group.group.completions, group.scores, advantages, strict=False
            )
            if score.error is None
            and completion.token_ids
            and (algorithm.trains_truncated or completion.finish_reason == "stop")
        )
        if rows:
            kept.append(TrainGroup(prompt_ids=group.group.prompt_ids, rows=rows))
    return kept


def count(groups: Sequence[TrainGroup], *, max_response_tokens: int) -> Totals:
    """Return the denominators of an update over these groups."""
    rows = [row for group in groups for row in group.rows]
    return Totals(
        num_tokens=sum(len(row.token_ids) for row in rows),
        num_sequences=len(rows),
        max_response_tokens=max_response_tokens,
    )


def balance(groups: Sequence[TrainGroup], num_ranks: int) -> list[list[TrainGroup]]:
    """Share groups out so that ranks hold about the same number of tokens, the largest first.

    A rank may be left with nothing.
    """
    shares: list[list[TrainGroup]] = [[] for _ in range(num_ranks)]
    loads = [0] * num_ranks
    for group in sorted(groups, key=lambda group: -group.num_tokens):
        lightest = loads.index(min(loads))
        shares[lightest].append(group)
        loads[lightest] += group.num_tokens
    return shares


def pack(
    groups: Sequence[TrainGroup], *, max_tokens: int, shares_prompts: bool = True
) -> list[list[TrainGroup]]:
    """Cut groups into micro-batches of at most `max_tokens` positions, padding included.

    Groups of like response lengths go together; a group too large for one micro-batch is cut into
    runs of rows. `shares_prompts` is that of `ResponseScorer`: without it a prompt runs, and
    counts, once for each of its rows.
    """
    pieces = [p for group in groups for p in _cut(group, max_tokens, shares_prompts=shares_prompts)]
    pieces.sort(key=lambda piece: (_longest(piece), len(piece.prompt_ids)))
    batches: list[list[TrainGroup]] = []
    for piece in pieces:
        wider = [*batches[-1], piece] if batches else []
        if wider and _positions(wider, shares_prompts=shares_prompts) <= max_tokens:
            batches[-1].append(piece)
        else:
            batches.append([piece])
    return batches


def collate(
    groups: Sequence[TrainGroup], *, pad_id: int, device: torch.device, least_width: int = 1
) -> TokenBatch:
    """Return the tensors of one micro-batch, with `least_width` response positions or more."""
    rows = [row for group in groups for row in group.rows]
    length = max(len(group.prompt_ids) for group in groups)
    width = max(least_width, *(len(row.token_ids) for row in rows))
    prompts = [(pad_id,) * (length - len(g.prompt_ids)) + g.prompt_ids for g in groups]
    padding_P = torch.tensor([length - len(group.prompt_ids) for group in groups])
    sizes_B = torch.tensor([len(row.token_ids) for row in rows])
    mask_BT = torch.arange(width)[None, :] < sizes_B[:, None]
    advantages_B = torch.tensor([row.advantage for row in rows], dtype=torch.float32)
    return TokenBatch(
        prompt_ids_PL=torch.tensor(prompts, device=device),
        prompt_mask_PL=(torch.arange(length)[None, :] >= padding_P[:, None]).to(device),
        rows_per_prompt_P=torch.tensor([len(group.rows) for group in groups], device=device),
        response_ids_BT=_right_padded([row.token_ids for row in rows], width, pad_id).to(device),
        response_mask_BT=mask_BT.to(device),
        advantages_BT=(advantages_B[:, None] * mask_BT).to(device),
        engine_logprobs_BT=_right_padded([r.engine_logprobs for r in rows], width, 0.0).to(device),
        is_stale_B=torch.tensor([row.is_stale for row in rows], device=device),
        rewards_BT=_right_padded([_token_rewards(row) for row in rows], width, 0.0).to(device),
    )


def empty_batch(*, pad_id: int, device: torch.device, width: int) -> TokenBatch:
    """Return a micro-batch without a response token: it runs the whole model, and everything that
    comes of it is 0, its gradient too."""
    nothing_BT = torch.zeros(1, width, device=device)
    return TokenBatch(
        prompt_ids_PL=torch.full((1, 1), pad_id, device=device),
        prompt_mask_PL=torch.ones(1, 1, dtype=torch.bool, device=device),
        rows_per_prompt_P=torch.ones(1, dtype=torch.long, device=device),
        response_ids_BT=torch.full((1, width), pad_id, device=device),
        response_mask_BT=nothing_BT.bool(),
        advantages_BT=nothing_BT,
        engine_logprobs_BT=nothing_BT,
        is_stale_B=torch.zeros(1, dtype=torch.bool, device=device),
        rewards_BT=nothing_BT,
    )


def _token_rewards(row: TrainRow) -> list[float]:
    """Return a reward for each token of a row, `advantage` in all."""
    rewards = list(row.token_rewards or (0.0,) * len(row.token_ids))
    assert len(rewards) == len(row.token_ids), "the rubric gives one reward for each token"
    rewards[-1] += row.advantage - sum(row.token_rewards)
    return rewards


def _right_padded(
    sequences: Sequence[Sequence[int]] | Sequence[Sequence[float]], width: int, fill: float
) -> Tensor:
    return torch.tensor([[*items, *[fill] * (width - len(items))] for items in sequences])


def _cut(group: TrainGroup, max_tokens: int, *, shares_prompts: bool) -> list[TrainGroup]:
    """Cut a group's rows, shortest first, into as few runs as fit `max_tokens` positions."""
    runs: list[list[TrainRow]] = []
    for row in sorted(group.rows, key=lambda row: len(row.token_ids)):
        wide = len(row.token_ids)
        num_rows = len(runs[-1]) + 1 if runs else 1
        num_prompts = 1 if shares_prompts else num_rows
        if runs and num_prompts * len(group.prompt_ids) + num_rows * wide <= max_tokens:
            runs[-1].append(row)
        else:
            runs.append([row])
    return [TrainGroup(prompt_ids=group.prompt_ids, rows=tuple(run)) for run in runs]


def _longest_allowed(groups: Sequence[ScoredGroup]) -> int:
    """Return the length at which completions were cut off, as far as these tell."""
    completions = (completion for group in groups for completion in group.group.completions)
    cut_off = (len(c.token_ids) for c in completions if c.finish_reason == "length")
    return max(cut_off, default=_ENDLESS)


def _longest(group: TrainGroup) -> int:
    return max(len(row.token_ids) for row in group.rows)


def _positions(groups: Sequence[TrainGroup], *, shares_prompts: bool) -> int:
    num_rows = sum(len(group.rows) for group in groups)
    num_prompts = len(groups) if shares_prompts else num_rows
    length = max(len(group.prompt_ids) for group in groups)
    return num_prompts * length + num_rows * max(map(_longest, groups))
