"""The curriculum benchmark: what it runs, what the oracle sees, and how it goes on."""

import importlib
import json
import os
import subprocess
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from rl_llm.config.curriculum import CurriculumSection
from rl_llm.curriculum import PoolIndex
from rl_llm.curriculum.belief import PoolBelief
from rl_llm.curriculum.compose import build_gates, build_sampler
from rl_llm.errors import InputError
from rl_llm.records import Problem

SCRIPTS = Path(__file__).parents[2] / "scripts"

CHILD = """
import json, pathlib, sys
spec, out = json.loads(sys.argv[2]), pathlib.Path(sys.argv[3])
if spec["arm"] == "dynamic":
    sys.exit("no such luck")
rates = [0.0, 0.5, 1.0]
curve = {"completions": [0, 1, 2], "tokens": [0, 1, 2], "pass_rate": rates}
curve |= {"informative_share": [None, 1.0, 1.0], "level=9": rates}
row = {**spec, "settings": sys.argv[0], "commit": "abc", "curve": curve, "steps": 2, "wall_s": 0.0}
row |= {"pool": {"histogram": [1] * 8, "informative": 0.5}, "budget": 2, "core": sys.argv[5]}
out.write_text(json.dumps(row))
"""


@pytest.fixture(scope="module")
def scripts():
    names = ("arms", "docs", "oracle", "run", "table")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SCRIPTS))
        modules = {name: importlib.import_module(f"parts.curriculum.{name}") for name in names}
        modules["checkout"] = importlib.import_module("parts.shared.checkout")
        yield SimpleNamespace(main=importlib.import_module("bench_curriculum"), **modules)


@pytest.fixture
def sandbox(scripts, tmp_path, monkeypatch):
    """The driver with a child that takes no time, and documents of its own."""
    child = tmp_path / "child.py"
    child.write_text(CHILD, encoding="utf-8")
    document = tmp_path / "benchmarks.md"
    text = "head\n<!-- curriculum:begin -->\nold\n<!-- curriculum:end -->\ntail\n"
    other = "<!-- curriculum-confirmed:begin -->\n<!-- curriculum-confirmed:end -->\n"
    document.write_text(text + other)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(scripts.main, "CHILD", child.stem)
    monkeypatch.setattr(scripts.main, "RESULT", tmp_path / "curriculum.json")
    monkeypatch.setattr(scripts.docs, "RESULT", tmp_path / "curriculum.json")
    monkeypatch.setattr(scripts.docs, "DOCUMENT", document)
    monkeypatch.setattr(scripts.arms.Spec, "settings", str(child))
    runs = tmp_path / "runs"
    return SimpleNamespace(
        runs=runs,
        document=document,
        result=tmp_path / "curriculum.json",
        call=lambda *words: scripts.main.main([*words, "--runs", str(runs)]),
        specs=lambda *words: list(scripts.main.planned(scripts.main._parser().parse_args(words))),
    )


def test_every_arm_is_a_recipe_with_the_same_learning_rate_and_its_seeds_own_pool(scripts):
    for task, arms in scripts.arms.ARMS_OF_TASK.items():
        for arm in arms:
            recipe = scripts.arms.Spec(stage="measure", task=task, arm=arm, seed=5).recipe()
            assert recipe.optim.lr == scripts.arms.LEARNING_RATE
            assert (recipe.run.seed, recipe.data.train[0].options["seed"]) == (5, 1005)
            assert [use.options["seed"] for use in recipe.data.eval] == [1, 1, 1]


def test_posterior_is_what_users_get_and_baselines_neither_retire_nor_defer(scripts):
    for arm in scripts.arms.ARMS:
        spec = scripts.arms.Spec(stage="measure", task="pool", arm=arm, seed=0)
        section, gates = spec.recipe().curriculum, {"gates": CurriculumSection().gates}
        if arm == "posterior":
            assert section.model_copy(update=gates) == CurriculumSection()
        elif not arm.startswith("posterior"):
            assert section.retire is section.defer is None


def test_every_arms_sampler_and_gates_take_their_options(scripts, monkeypatch):
    index = PoolIndex.of([Problem(key=str(i), prompt=str(i), answer="") for i in range(4)])
    monkeypatch.setitem(
        importlib.import_module("rl_llm.curriculum.samplers").SAMPLERS,
        "oracle",
        scripts.oracle.Oracle,
    )
    for arm in scripts.arms.ARMS:
        spec = scripts.arms.Spec(stage="measure", task="pool", arm=arm, seed=0)
        section = spec.recipe().curriculum
        build_sampler(section.sampler, index=index, belief=PoolBelief(index), seed=0, group_size=8)
        assert len(build_gates(section.gates)) == (arm != "uniform")


def test_settings_differ_between_arms_and_not_between_seeds(scripts):
    def settings(arm, seed):
        return scripts.arms.Spec(stage="measure", task="pool", arm=arm, seed=seed).settings

    assert len({settings(arm, 0) for arm in scripts.arms.ARMS}) == len(scripts.arms.ARMS)
    assert settings("posterior", 0) == settings("posterior", 7)


def test_runs_are_planned_seed_by_seed_over_all_arms(sandbox):
    specs = sandbox.specs("--task", "stream", "--seeds", "3", "4", "--arms", "uniform", "posterior")
    assert [(spec.seed, spec.arm) for spec in specs] == [
        (3, "uniform"),
        (3, "posterior"),
        (4, "uniform"),
        (4, "posterior"),
    ]


def test_stages_have_seeds_of_their_own(sandbox):
    assert {spec.seed for spec in sandbox.specs("--stage", "freeze")} == {100, 101, 102}
    assert {spec.seed for spec in sandbox.specs("--stage", "measure")} == set(range(12))
    confirming = sandbox.specs("--stage", "confirm")
    assert {spec.seed for spec in confirming} == set(range(12, 20))
    assert {(spec.task, spec.arm) for spec in confirming} == {
        ("pool", "uniform"),
        ("pool", "dynamic"),
        ("pool", "posterior"),
    }
    tried = sandbox.specs("--stage", "lr")
    assert len({spec.file(Path()) for spec in tried}) == len(tried) == 9
    assert {spec.arm for spec in tried} == {"uniform"}


def test_what_is_confirmed_stands_apart_from_what_is_measured(sandbox):
    words = ("--seeds", "12", "--arms", "uniform", "posterior")
    assert sandbox.call("--stage", "confirm", *words) == 0
    measured, confirmed = sandbox.document.read_text().split("tail")
    assert "old" in measured and "`posterior` | 1 |" in confirmed
    result = json.loads(sandbox.result.read_text())
    assert list(result["confirmed"]["summary"]["pool"]) == ["posterior vs uniform"]
    assert "summary" not in result


def test_a_failing_run_stops_no_other_and_is_made_again_by_the_next_call(sandbox, capsys):
    words = ("--task", "pool", "--seeds", "0", "--arms", "dynamic", "uniform", "posterior")
    assert sandbox.call(*words) == 1
    assert "measure/pool/dynamic-0 failed:\nno such luck" in capsys.readouterr().err
    done = sorted(sandbox.runs.rglob("*.json"))
    assert [file.stem for file in done] == ["posterior-0", "uniform-0"]
    before = {file: file.stat().st_mtime_ns for file in done}
    assert sandbox.call(*words) == 1
    assert {file: file.stat().st_mtime_ns for file in done} == before


def test_rows_and_tables_are_written_and_other_results_stay(sandbox):
    sandbox.result.write_text('{"scale": {"plan_ms": 9.0}}')
    assert sandbox.call("--seeds", "0", "1", "--task", "pool", "--arms", "uniform", "greso") == 0
    tree = json.loads(sandbox.result.read_text())
    assert tree["scale"] == {"plan_ms": 9.0}
    assert [(row["arm"], row["seed"]) for row in tree["rows"]] == [
        ("uniform", 0),
        ("uniform", 1),
        ("greso", 0),
        ("greso", 1),
    ]
    assert tree["summary"]["pool"]["greso vs uniform"]["ratio"] == 1.0
    text = sandbox.document.read_text()
    assert text.startswith("head\n") and "\ntail\n" in text and "old" not in text
    assert "| greso vs uniform | 2 | 1.00 (1.00-1.00) |" in text


def test_runs_of_other_settings_are_replaced_only_when_asked(sandbox, capsys):
    words = ("--seeds", "0", "--task", "pool", "--arms", "uniform")
    assert sandbox.call(*words) == 0
    (file,) = sandbox.runs.rglob("*.json")
    file.write_text(json.dumps({**json.loads(file.read_text()), "settings": "old"}))
    assert sandbox.call(*words) == 2
    assert "holds 1 runs of other settings" in capsys.readouterr().err
    assert sandbox.call(*words, "--fresh") == 0
    assert json.loads(file.read_text())["settings"] != "old"


def test_the_table_alone_makes_no_run_and_without_any_says_so(sandbox, capsys):
    assert sandbox.call("--table") == 2
    assert "no runs of stage measure" in capsys.readouterr().err
    assert not sandbox.runs.exists()


def test_a_quick_pair_that_learns_nothing_says_so_and_writes_nothing(sandbox, capsys):
    assert sandbox.call("--quick") == 0
    for file in sandbox.runs.rglob("*.json"):
        run = json.loads(file.read_text())
        file.write_text(json.dumps(run | {"curve": run["curve"] | {"pass_rate": [0.5, 0.5, 0.5]}}))
    assert sandbox.call("--quick", "--table") == 0
    assert "a run this short tells too little" in capsys.readouterr().out
    assert not sandbox.result.exists()


def test_markers_that_are_missing_are_an_error(scripts, sandbox):
    with pytest.raises(InputError, match="lacks the lines <!-- other:begin -->"):
        scripts.docs.write_between("other", "")


def test_mixed_groups_are_most_probable_in_the_middle(scripts):
    mixed = scripts.oracle.mixed_probability(np.array([0.0, 0.5, 0.9, 1.0]), group_size=2)
    assert mixed.tolist() == pytest.approx([0.0, 0.5, 0.18, 0.0])


@pytest.fixture
def oracle(scripts, monkeypatch):
    """An oracle over 100 problems whose true pass rates are 0, .01, .02 and so on."""
    index = PoolIndex.of([Problem(key=str(i), prompt=str(i), answer="") for i in range(100)])
    rates = staticmethod(lambda at: at / 100)
    monkeypatch.setattr(scripts.oracle.Oracle, "true_rates", rates, raising=False)
    return lambda **options: scripts.oracle.Oracle(index=index, seed=0, group_size=2, **options)


def test_the_oracle_takes_the_best_of_four_times_as_many_candidates(oracle):
    # 25 problems make all 100 candidates: those nearest to 1/2 are the best, 50 before all.
    chosen = oracle().plan(1, 25)
    assert chosen[0] == 50
    assert sorted(chosen) == list(range(38, 63))


def test_the_oracle_sees_its_candidates_alone_and_nothing_that_is_excluded(oracle):
    chosen = [oracle(candidates=1).plan(step, 10) for step in range(50)]
    assert len(set(np.concatenate(chosen).tolist())) > 90  # One candidate each: a uniform draw.
    exclude = np.ones(100, np.bool_)
    exclude[[3, 50, 99]] = False
    assert oracle().plan(1, 2, exclude=exclude).tolist() == [50, 3]


@pytest.mark.slow
def test_what_the_oracle_sees_is_the_probability_of_the_worked_solution(scripts, monkeypatch):
    import torch

    from rl_llm.cli.inputs import load_model
    from rl_llm.policy import Ranks

    spec = scripts.arms.Spec(stage="measure", task="pool", arm="uniform", seed=0)
    model = load_model(spec.recipe(), Ranks())
    texts = ["47+38=", "12345678+87654321=", "3+4="]
    problems = [Problem(key=text, prompt=text, answer="") for text in texts]
    rates = scripts.oracle.WorkedSolutions(model, problems, temperature=1.0)
    steps = "<think>7+8+0=15 4+3+1=8</think><answer>85</answer>"
    ids = [*model.encoder.encode("47+38="), *model.encoder.encode(steps), model.stop_ids[0]]
    with torch.no_grad():
        probabilities = model.base(torch.tensor([ids])).logits[0].softmax(-1)
    by_hand = np.prod([float(probabilities[i - 1, ids[i]]) for i in range(6, len(ids))])
    assert rates([1, 0, 2])[1] == pytest.approx(by_hand, rel=1e-4)
    assert rates([0])[0] == pytest.approx(by_hand, rel=1e-4)
    # In batches of like length every rate stays with its problem.
    monkeypatch.setattr(scripts.oracle, "_ROWS", 2)
    alone = [rates([position])[0] for position in (1, 0, 2, 1, 0)]
    assert rates([1, 0, 2, 1, 0]) == pytest.approx(alone, rel=1e-4, abs=1e-9)
    assert len({round(rate, 6) for rate in alone}) == 3


def test_completions_in_mixed_groups_are_those_of_groups_that_gates_let_through(scripts):
    def counted(row, **curriculum):
        recipe = SimpleNamespace(
            curriculum=SimpleNamespace(gates=curriculum["gates"]),
            rollout=SimpleNamespace(group_size=8),
        )
        parts = SimpleNamespace(counters=SimpleNamespace(completions=100), recipe=recipe)
        return scripts.run._mixed_completions(parts, row, since=60)

    # 3 whole groups of 40 completions; without a gate, the share of mixed groups of one size.
    assert counted({"train/groups_admitted": 3}, gates=["informative"]) == (24, 40)
    assert counted({"train/informative_share": 0.4}, gates=[]) == (16.0, 40)


@pytest.mark.slow
@pytest.mark.parametrize("arm", ["posterior-refill", "probe", "oracle"])
def test_a_run_spends_its_budget_and_evaluates_past_every_multiple(scripts, tmp_path, arm):
    spec = scripts.arms.Spec(
        stage="quick", task="pool", arm=arm, seed=0, budget=512, evaluate_every=256
    )
    out = tmp_path / "row.json"
    words = ["run", json.dumps(asdict(spec)), str(out)]
    command = [*scripts.checkout.program("parts.curriculum.run"), *words]
    done = subprocess.run(
        command,
        env=scripts.checkout.environment(),
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    row = json.loads(out.read_text(encoding="utf-8"))
    curve = row["curve"]
    spent = curve["completions"]
    assert spent[0] == 0 and spent[-1] >= 512
    multiples = [count // 256 for count in spent]
    assert len(spent) >= 2 and multiples == sorted(set(multiples))
    assert {len(values) for values in curve.values()} == {len(spent)}
    assert curve["informative_share"][0] is None
    assert all(0 < share <= 1 for share in curve["informative_share"][1:])
    assert sum(row["pool"]["histogram"]) == 252
    assert (row["settings"], row["seed"]) == (spec.settings, 0)
