"""One process of `bench_scaling.py`: takes steps, and says how long it waited in collectives.

PYTHONPATH=scripts python -m parts.scaling.child TASK.json OUT_STEM

Also under `accelerate launch --module`.
"""

import functools
import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from parts.rollout.child import parts_of, recipe_of
from rl_llm.cli.runtime import keep_freed_memory
from rl_llm.trainer import Parts, Trainer

Row = dict[str, Any]
OBJECTS = ("all_gather_object", "broadcast_object_list")
KEPT = (
    "step_s",
    "time/generate_s",
    "time/score_s",
    "rollout/tokens",
    "train/trained_tokens",
    "train/pass_rate",
    "optim/grad_norm",
)


class Stopwatch:
    """Adds up the seconds spent in some functions; one inside another counts once."""

    def __init__(self) -> None:
        """Start at zero."""
        self.seconds = 0.0
        self._depth = 0

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function with its time taken."""

        @functools.wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            self._depth += 1
            started = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self._depth -= 1
                if self._depth == 0:
                    self.seconds += time.perf_counter() - started

        return timed


def main(task_file: str, out_stem: str) -> None:
    """Take the steps of a task, and write one row each to OUT_STEM-<rank>.json."""
    task = json.loads(Path(task_file).read_text(encoding="utf-8"))
    torch.set_num_threads(task["threads"])
    keep_freed_memory()
    collectives, updates, publications = Stopwatch(), Stopwatch(), Stopwatch()
    time_collectives(collectives)
    parts = parts_of(recipe_of(task))
    for owner, name, watch in (
        (parts.policy, "update", updates),
        (parts.policy, "save_adapter", publications),
        (parts.generation, "load_weights", publications),
    ):
        setattr(owner, name, watch.around(getattr(owner, name)))
    watches = {"collective_s": collectives, "update_s": updates, "publish_s": publications}
    try:
        steps = [one_step(parts, watches) for _ in range(task["warm_up"] + task["steps"])]
    finally:
        parts.engine.close()
    out = Path(f"{out_stem}-{parts.ranks.rank}.json")
    out.write_text(json.dumps({"steps": steps}, indent=1) + "\n", encoding="utf-8")
    parts.ranks.close()


def time_collectives(watch: Stopwatch) -> None:
    """Count every wait for a collective, and the pickling around those of objects."""
    for owner, name in ((dist.Work, "wait"), *((dist, each) for each in OBJECTS)):
        setattr(owner, name, watch.around(getattr(owner, name)))


def one_step(parts: Parts, watches: Mapping[str, Stopwatch]) -> Row:
    """Take a step once every process is ready, and return its seconds and its outcome.

    `call_s` covers a publication before the step too, so `publish_s` and `collective_s` are those
    of two of them.
    """
    trainer = Trainer(parts)
    parts.ranks.wait()
    before = {name: watch.seconds for name, watch in watches.items()}
    started = time.perf_counter()
    row = trainer.take_one_step()
    call_s = time.perf_counter() - started
    spent = {name: watch.seconds - before[name] for name, watch in watches.items()}
    kept = {name.rpartition("/")[2]: row[name] for name in KEPT}
    return {**kept, "call_s": call_s, **spent}


if __name__ == "__main__":
    main(*sys.argv[1:])
