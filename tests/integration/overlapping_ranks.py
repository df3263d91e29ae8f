"""A short run on all ranks, noted down: the program that test_overlap.py launches."""

import json
import os
import sys
from itertools import islice
from pathlib import Path

from rl_llm.cli.inputs import load_data, load_model
from rl_llm.cli.parts import build_parts
from rl_llm.cli.progress import SilentWatcher
from rl_llm.config import load_recipe
from rl_llm.errors import EngineLost
from rl_llm.policy import Ranks
from rl_llm.policy.model import fingerprint
from rl_llm.trainer import Generation, RunFolder, Trainer, checkpoint


def run(recipe_file, overrides, ranks):
    """Train, from a checkpoint where there is one; return what every harvest drew, in its order,
    with the weights that drew it, and what the run came to."""
    noted, harvest = [], Generation.harvest

    def note(self, scheduler, step, **options):
        found = harvest(self, scheduler, step, **options)
        noted.append(
            [
                [group.group.problem.key, *(c.token_ids for c in group.group.completions)]
                + [c.policy_version for c in group.group.completions]
                for group in found.scored
            ]
        )
        return found

    Generation.harvest = note
    recipe = load_recipe(recipe_file, overrides)
    model = load_model(recipe, ranks)
    data = load_data(recipe, model.encoder)
    folder = RunFolder(Path(recipe_file).parent / "run")
    parts = build_parts(recipe, model, data, ranks, folder=folder, watcher=SilentWatcher())
    saved = ranks.on_main(lambda: folder.find_checkpoint("auto"))
    if saved is not None:
        found = saved.checkpoint
        checkpoint.load(found, checkpoint.read_state(found), parts.stateful)
    if os.environ.get("LOST_ON") == str(ranks.rank):
        lose(parts.engine, on_call=8)
    try:
        assert Trainer(parts).run()
    except EngineLost as lost:
        return {"lost": str(lost)}
    parts.engine.close()
    beliefs = parts.scheduler.beliefs()
    return {
        "harvests": noted,
        "beliefs": [beliefs.a.tolist(), beliefs.b.tolist()],
        "weights": fingerprint(model.base),
    }


def lose(engine, *, on_call):
    """Let an engine be gone in the middle of one of its calls."""
    complete, calls = engine.complete, []

    def fail(requests):
        calls.append(requests)
        groups = complete(requests)
        yield from islice(groups, 1)
        if len(calls) == on_call:
            raise EngineLost("no server answers")
        yield from groups

    engine.complete = fail
    engine.may_be_lost = True


if __name__ == "__main__":
    ranks = Ranks()
    assert ranks.num_ranks == 2
    found = run(sys.argv[1], sys.argv[2:], ranks)
    file = Path(sys.argv[1]).with_name(f"rank-{ranks.rank}.json")
    file.write_text(json.dumps(found), encoding="utf-8")
    ranks.close()
