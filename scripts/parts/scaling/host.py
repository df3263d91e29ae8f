"""What a step costs on a CPU core by the number of its completions, for `bench_scaling.py`.

PYTHONPATH=scripts python -m parts.scaling.host OUT.json

Made-up groups of the size of real ones go through rl-llm's own functions. Nothing here needs a
model or a GPU, and it costs the same beside one.
"""

import json
import os
import pickle
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rl_llm.algorithms import Algorithm, grpo
from rl_llm.config import RewardUse
from rl_llm.curriculum.draw_record import Draw
from rl_llm.policy import score_batch, train_groups
from rl_llm.policy.pack import balance, collate, pack
from rl_llm.records import Completion, Group, Problem, ScoredGroup, content_key
from rl_llm.scoring import build_rubric
from rl_llm.seeds import derive_rng
from rl_llm.trainer.draws import draw_rows
from rl_llm.trainer.generation import Harvest
from rl_llm.trainer.metrics import Counters, harvest_row
from rl_llm.trainer.samples import training_samples

NUM_GROUPS, GROUP_SIZE, PROMPT_TOKENS, RESPONSE_TOKENS = 256, 8, 128, 300
NUM_COMPLETIONS = NUM_GROUPS * GROUP_SIZE
VOCABULARY, MICRO_BATCH_TOKENS, NUM_RANKS = 150_000, 8_192, 64
CHECKPOINT_BYTES = 256 * 2**20
REPEATS = 3
REWARDS = (
    RewardUse(use="numeric_answer"),
    RewardUse.model_validate({"use": "length_budget", "limit": 512, "cache": 128}),
)


def main(out_file: str) -> None:
    """Measure every part, and write the best of three of each."""
    groups, score_us = scored_groups()
    algorithm = grpo()
    wire = pickle.dumps(groups)
    shares = balance(learnt_from(groups, algorithm), NUM_RANKS)
    found = {
        "send_us": best_us(lambda: pickle.dumps(groups)) / NUM_COMPLETIONS,
        "sent_bytes": len(wire) / NUM_COMPLETIONS,
        "receive_us": best_us(lambda: pickle.loads(wire)) / NUM_COMPLETIONS,
        "rows_us": best_us(lambda: rows_of(groups)) / NUM_GROUPS,
        "score_us": score_us,
        "learn_us": best_us(lambda: balance(learnt_from(groups, algorithm), NUM_RANKS))
        / NUM_COMPLETIONS,
        "pack_us": best_us(lambda: packed(shares)) / NUM_COMPLETIONS,
        "write_mb_per_s": CHECKPOINT_BYTES / best_us(write_to_disk),
    }
    text = json.dumps({name: round(value, 3) for name, value in found.items()}, indent=1)
    Path(out_file).write_text(f"{text}\n", encoding="utf-8")


def best_us(call: Callable[[], Any]) -> float:
    """Return the microseconds of the fastest of a few calls."""
    seconds = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    return 1e6 * min(seconds)


def scored_groups() -> tuple[list[ScoredGroup], float]:
    """Return groups with real scores, and the microseconds that scoring a completion took."""
    rng = derive_rng(0, "bench_scaling_host")
    groups = [_group(i, rng) for i in range(NUM_GROUPS)]
    rubric = build_rubric(REWARDS, columns=())
    return list(rubric.score(groups)), best_us(lambda: list(rubric.score(groups))) / NUM_COMPLETIONS


def _group(number: int, rng: np.random.Generator) -> Group:
    prompt, answer = f"Problem {number}: " + "a word problem " * 30, str(number)
    problem = Problem(key=content_key(prompt, answer), prompt=prompt, answer=answer, source="made")
    return Group(
        problem=problem,
        prompt_ids=tuple(rng.integers(VOCABULARY, size=PROMPT_TOKENS).tolist()),
        completions=tuple(_completion(number + i % 2, rng) for i in range(GROUP_SIZE)),
    )


def _completion(answer: int, rng: np.random.Generator) -> Completion:
    return Completion(
        token_ids=tuple(rng.integers(VOCABULARY, size=RESPONSE_TOKENS).tolist()),
        logprobs=tuple((-rng.random(RESPONSE_TOKENS)).tolist()),
        text="step by step " * (RESPONSE_TOKENS // 4) + f"The answer is {answer}.",
        finish_reason="stop",
        policy_version=0,
    )


def learnt_from(groups: Sequence[ScoredGroup], algorithm: Algorithm) -> list[Any]:
    """Return what an update gets, as `Trainer` prepares it."""
    advantages_PG = algorithm.advantages(score_batch(groups))
    return train_groups(groups, advantages_PG, algorithm, version=0)


def packed(shares: Sequence[Any]) -> list[Any]:
    """Return every rank's micro-batches."""
    batches = [batch for share in shares for batch in pack(share, max_tokens=MICRO_BATCH_TOKENS)]
    return [collate(batch, pad_id=0, device=torch.device("cpu")) for batch in batches]


def rows_of(groups: Sequence[ScoredGroup]) -> str:
    """Return what rank 0 writes of a step: its metrics, a line a draw, and samples."""
    draws = [Draw(group.group.problem.key, 1.5, 2.5, 0.7, "sampler", 0) for group in groups]
    harvest = Harvest(
        scored=tuple(groups),
        draws=tuple(draws),
        admitted=tuple(groups),
        dropped=(),
        num_rounds=1,
        generate_s=1.0,
        score_s=1.0,
    )
    counters = Counters()
    counters.count(1, harvest)
    advantages = [[0.0] * GROUP_SIZE] * len(groups)
    samples = training_samples(groups, advantages, step=1, beliefs=harvest.beliefs)
    rows = [harvest_row(harvest, counters), *draw_rows(harvest, step=1), *samples]
    return "\n".join(json.dumps(row) for row in rows)


def write_to_disk() -> None:
    """Write as many bytes as a checkpoint may have, and wait until they are on the disk."""
    with tempfile.NamedTemporaryFile() as file:
        torch.save({"moments": torch.zeros(CHECKPOINT_BYTES // 4)}, file)
        file.flush()
        os.fsync(file.fileno())


if __name__ == "__main__":
    main(*sys.argv[1:])
