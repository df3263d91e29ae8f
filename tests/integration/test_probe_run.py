"""Probe-then-finish with the real engine: two policies in one group, each with its own logprobs."""

from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from shutil import copytree

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from rl_llm.cli import parts
from rl_llm.cli.main import main
from rl_llm.policy import load_base
from rl_llm.trainer import Generation

pytestmark = pytest.mark.slow

# Pairs of completions for 10 problems of 120 a step, and 2 more for at most 3 of those that wait. A
# high learning rate, so that one policy is easily told from the next.
PROBING = [
    "run.steps=4",
    "model.path=data/models/carry-adder-frontier",
    "data.train.0.levels=[4,5,6]",
    "data.train.0.size=120",
    "data.eval=[]",
    "eval.train_problems=0",
    "curriculum={sampler: {name: uniform}, probe: {completions: 2, problems: 10}}",
    "rollout.problems_per_step=3",
    "kl={controller: {name: constant}}",
    "optim={lr: 2.0e-3, tokens_per_micro_batch: 1024}",
]
BASE = Path(__file__).parents[2] / "data" / "models" / "carry-adder-frontier"


class Recorder:
    """Keeps what the engine drew, what every step brought, and the adapter of every version."""

    def __init__(self, adapters):
        self.adapters = adapters
        self.drawn = []
        self.harvests = []

    def watch(self, engine):
        self.engine = engine
        return self

    def complete(self, requests):
        for group in self.engine.complete(requests):
            self.drawn.append(group)
            yield group

    def load_weights(self, adapter_dir, *, version):
        copytree(adapter_dir, self.adapters / str(version), dirs_exist_ok=True)
        self.engine.load_weights(adapter_dir, version=version)

    def __getattr__(self, name):
        return getattr(self.engine, name)

    def close(self):
        self.engine.close()


@pytest.fixture
def recorder(tmp_path, monkeypatch):
    record = Recorder(tmp_path / "adapters")
    build_engine, harvest = parts.build_engine, Generation.harvest

    def remember(self, *arguments, **options):
        record.harvests.append(harvest(self, *arguments, **options))
        return record.harvests[-1]

    def watched(*given, **named):
        return record.watch(build_engine(*given, **named))

    monkeypatch.setattr(parts, "build_engine", watched)
    monkeypatch.setattr(Generation, "harvest", remember)
    return record


def completions(groups):
    return sorted(
        (group.problem.key, c.policy_version, c.token_ids, c.logprobs)
        for group in groups
        for c in group.completions
    )


def logprobs_under(adapter, group, completion):
    base = load_base(str(BASE), dtype="float32", device=torch.device("cpu"))
    model = PeftModel.from_pretrained(base, str(adapter)).eval()
    ids = torch.tensor([group.prompt_ids + completion.token_ids])
    with torch.no_grad():
        log_softmax = model(ids).logits[0, len(group.prompt_ids) - 1 : -1].log_softmax(-1)
    return log_softmax.gather(1, ids[0, len(group.prompt_ids) :, None]).squeeze(1)


def test_a_run_with_probes_counts_every_completion_once_and_each_keeps_its_own_policy(
    small, recorder, read_metrics
):
    assert main(["train", str(small), *PROBING]) == 0
    rows = read_metrics("runs/small")[1:]
    drawn, harvests = recorder.drawn, recorder.harvests
    admitted = [each.group for harvest in harvests for each in harvest.admitted]

    # Every completion is counted where it was drawn, and decided once; none waits at the end.
    scored = [each.group for harvest in harvests for each in harvest.scored]
    concluded = [each.group for h in harvests for each in (*h.admitted, *h.dropped)]
    assert completions(drawn) == completions(scored) == completions(concluded)
    assert rows[-1]["rollout/completions"] == len(completions(drawn))

    # The first step makes a second call for what its first has probed; no later one needs to.
    assert [row["rollout/refill_rounds"] for row in rows] == [1, 0, 0, 0]
    assert all(0 < row["train/groups_admitted"] <= 3 for row in rows[:-1])

    # A group is the probe and the rest as the engine reported them, in that order.
    by_key = defaultdict(list)
    for group in drawn:
        by_key[group.problem.key].append(group)
    num_alike = 0
    for group in admitted:
        probe, rest = by_key[group.problem.key]
        assert group.completions == probe.completions + rest.completions
        assert len(probe.completions) == len(rest.completions) == 2
        num_alike += probe.completions == rest.completions
    assert num_alike <= 1  # By chance; with one stream for both, those of the first step all would.
    spans = [[c.policy_version for c in group.completions] for group in admitted]
    assert all(a <= b for span in spans for a, b in pairwise(span))
    stale = [group for group, span in zip(admitted, spans, strict=True) if span[0] < span[-1]]
    assert len(stale) >= 6

    # The first step has one policy. Stale rows do not look like an engine that disagrees.
    assert rows[0]["rollout/stale_share"] == 0
    assert all(0 < row["rollout/stale_share"] < 1 for row in rows[1:])
    assert all(row["rollout/stale_nats_per_token"] > 0 for row in rows[1:])
    assert all(row["rollout/mismatch_max_nats"] < 1e-3 for row in rows)

    # The policy that drew a completion, and no other, gives it the logprobs that it carries.
    for completion in (stale[0].completions[0], stale[0].completions[-1]):
        own = torch.tensor(completion.logprobs)
        versions = sorted({c.policy_version for c in stale[0].completions})
        distance = {
            version: (logprobs_under(recorder.adapters / str(version), stale[0], completion) - own)
            .abs()
            .max()
            for version in versions
        }
        assert distance.pop(completion.policy_version) < 1e-4
        assert min(distance.values()) > 1e-3


def test_a_run_resumed_with_probes_waiting_goes_on_as_if_it_had_not_stopped(
    small, read_metrics, lasting, recorder
):
    assert main(["train", str(small), *PROBING]) == 0
    whole = list(recorder.harvests)
    middle = "runs/small/checkpoints/step-000002"
    assert main(["train", str(small), *PROBING, "run.name=branch", "--resume", middle]) == 0
    resumed = recorder.harvests[len(whole) :]
    assert [h.scored for h in resumed] == [h.scored for h in whole[2:]]
    assert [h.admitted for h in resumed] == [h.admitted for h in whole[2:]]
    # What was admitted first after the checkpoint had been probed before it.
    assert resumed[0].admitted[0].group.completions[0].policy_version < 2
    rows = lasting(read_metrics("runs/branch"))
    assert rows == lasting(read_metrics("runs/small"))[3:]
    ours, theirs = (
        load_file(f"runs/{n}/adapter/adapter_model.safetensors") for n in ("branch", "small")
    )
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
