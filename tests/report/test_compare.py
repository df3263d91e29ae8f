"""Two runs or evaluations side by side: which problems count, and what is said where none do."""

import json
from pathlib import Path

import pytest

from rl_llm.errors import InputError
from rl_llm.report.compare import compare, read_side


def problem_row(key, correct, *, samples=2, level=1, source="sums", masked=0):
    return {
        "key": key,
        "source": source,
        "level": level,
        "correct": correct,
        "samples": samples,
        "masked": masked,
    }


@pytest.fixture
def run(make_run):
    """Make a run's folder: `run(name, {step: {key: correct}})`, and optionally its last row."""

    def make(name, evaluations, **last):
        metrics = [{"step": step, "eval/pass_rate": 0.5} for step in evaluations]
        metrics[-1] |= last
        folder = make_run(metrics, name=name)
        rows = [
            {"step": step, **problem_row(key, correct)}
            for step, results in evaluations.items()
            for key, correct in results.items()
        ]
        (folder / "evaluations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return folder

    return make


@pytest.fixture
def write(tmp_path):
    """Write a file as `rl-llm evaluate --out` does, and return its path."""

    def write(name, rows, *, recipe=None):
        tree = {"recipe": recipe or {}, "metrics": {"eval/pass_rate": 0.5}, "problems": rows}
        path = tmp_path / name
        path.write_text(json.dumps(tree), encoding="utf-8")
        return path

    return write


def compared(a, b):
    return compare(read_side(Path(a)), read_side(Path(b)))


def test_the_last_evaluations_of_two_runs_are_paired_by_problem(run):
    a = run("a", {0: {"k": 2, "l": 2, "m": 2}, 8: {"k": 0, "l": 1, "m": 2}})
    b = run("b", {0: {"k": 0, "l": 0, "m": 0}, 4: {"m": 1, "l": 2, "k": 2}})
    found = compared(a, b)
    assert (found.a.source, found.b.source) == (f"{a} after step 8", f"{b} after step 4")
    [(_, level), (_, total)] = found.by_bucket
    assert level == total
    # d: k +1, l +.5, m -.5: mean 1/3
    assert (total.a, total.b, total.difference) == (0.5, pytest.approx(5 / 6), pytest.approx(1 / 3))
    assert (total.higher_a, total.higher_b) == (1, 2)


def test_an_evaluation_whose_row_of_metrics_was_not_written_does_not_count(run):
    folder = run("a", {0: {"k": 2}})
    with (folder / "evaluations.jsonl").open("a") as file:
        file.write(json.dumps({"step": 4, **problem_row("l", 1)}) + '\n{"step": 4, "ke')
    assert list(read_side(folder).problems) == ["k"]


def test_problems_that_one_side_lacks_are_left_out(run, write):
    a = run("a", {0: {"k": 2, "l": 0, "m": 0}})
    b = write("b.json", [problem_row("l", 2), problem_row("k", 2), problem_row("x", 0)])
    found = compared(a, b)
    assert found.num_common == 2
    assert (len(found.a.problems), len(found.b.problems)) == (3, 3)
    assert found.by_bucket[-1][1].difference == 0.5


def test_levels_and_sources_are_compared_apart(write):
    rows = [("k", 0, 1, "sums"), ("l", 2, 2, "sums"), ("m", 0, 1, "words")]
    a = write("a.json", [problem_row(k, 0, level=v, source=s) for k, _, v, s in rows])
    b = write("b.json", [problem_row(k, c, level=v, source=s) for k, c, v, s in rows])
    found = {
        (bucket.source, bucket.level): each.difference for bucket, each in compared(a, b).by_bucket
    }
    assert found == {
        ("sums", 1): 0.0,
        ("sums", 2): 1.0,
        ("sums", None): 0.5,
        ("words", 1): 0.0,
        ("words", None): 0.0,
        (None, None): pytest.approx(1 / 3),
    }


def test_settings_that_differ_are_shown_but_not_the_names(write):
    recipes = [
        {"run": {"name": name, "seed": 0}, "optim": {"lr": lr}, "rewards": rewards}
        for name, lr, rewards in (("a", 0.1, [{"use": "x"}]), ("b", 0.2, [{"use": "x", "at": 1}]))
    ]
    a, b = (write(f"{n}.json", [problem_row("k", 1)], recipe=r) for n, r in enumerate(recipes))
    assert compared(a, b).settings == {
        "optim.lr": ("0.1", "0.2"),
        "rewards.0.at": ("nothing", "1"),
    }


def test_a_key_that_an_older_recipe_lacks_counts_with_its_default(write):
    older = {
        "run": {"name": "a", "steps": 4},
        "model": {"path": "m"},
        "data": {"train": [{"use": "sums"}]},
        "rewards": [{"use": "x"}],
    }
    newer = {**older, "curriculum": {"belief": {"max_drift": 2.0}}, "alarms": {"stop": True}}
    a = write("a.json", [problem_row("k", 1)], recipe=older)
    b = write("b.json", [problem_row("k", 1)], recipe=newer)
    assert compared(a, b).settings == {"alarms.stop": ("False", "True")}


def test_metrics_are_the_last_finite_values_of_each_side(run):
    a = run("a", {0: {"k": 1}, 4: {"k": 1}}, **{"kl/beta": 0.5, "loss/policy": None})
    b = run("b", {0: {"k": 1}})
    metrics = compared(a, b).metrics
    assert metrics == {"step": (4, 0), "eval/pass_rate": (0.5, 0.5), "kl/beta": (0.5, None)}


def test_nothing_in_common_is_an_error_that_names_both_and_the_way_out(run, write):
    a, b = run("a", {0: {"k": 2, "l": 0}}), write("b.json", [problem_row("x", 2)])
    with pytest.raises(InputError) as refused:
        compared(a, b)
    message = str(refused.value)
    assert (
        f"{a} after step 0 (2 problems) and {b} (1) have no held-out problem in common" in message
    )
    assert "--out FILE.json" in message


def test_a_run_without_results_of_single_problems_is_told_how_to_get_them(make_run):
    folder = make_run([{"step": 0, "eval/pass_rate": 0.5}])
    with pytest.raises(
        InputError, match=r"keeps no results .*`rl-llm evaluate .*--out FILE\.json`"
    ):
        read_side(folder)
    with pytest.raises(InputError, match="has not evaluated yet"):
        read_side(make_run([{"step": 0}], name="other"))


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("{", "holds no evaluation"),
        ("[1]", "holds no evaluation"),
        ('{"recipe": {}}', "holds no evaluation"),
        ('{"recipe": {}, "metrics": [1], "problems": []}', "holds no evaluation"),
        ('{"recipe": {}, "metrics": {}, "problems": [{"key": "k"}]}', "no problem's result"),
        ("[" * 100_000, "holds no evaluation"),
    ],
)
def test_a_file_that_is_no_evaluation_is_refused_by_name(tmp_path, text, fault):
    file = tmp_path / "some.json"
    file.write_text(text)
    with pytest.raises(InputError, match=rf"some\.json holds .*{fault.removeprefix('holds ')}"):
        read_side(file)


def test_a_damaged_line_is_named_once(run):
    folder = run("a", {0: {"k": 2}})
    with (folder / "evaluations.jsonl").open("a") as file:
        file.write("[1]\n")
    with pytest.raises(InputError, match=r"^\S*evaluations\.jsonl, line 2: .* mend that line$"):
        read_side(folder)
