"""`rl-llm compare` as a person, and a script, reads it."""

import json
import shutil

import pytest

from rl_llm.cli.main import main


@pytest.fixture
def write(tmp_path):
    """Write a file as `rl-llm evaluate --out` does: `write(name, {key: (correct, masked)})`."""

    def write(name, results, *, lr=0.1):
        rows = [
            {
                "key": key,
                "source": "sums",
                "level": 3,
                "correct": correct,
                "samples": 2,
                "masked": masked,
            }
            for key, (correct, masked) in results.items()
        ]
        metrics = {"eval/pass_rate": 0.25, "rollout/tokens": 12345}
        tree = {"recipe": {"optim": {"lr": lr}}, "metrics": metrics, "problems": rows}
        (tmp_path / name).write_text(json.dumps(tree), encoding="utf-8")
        return str(tmp_path / name)

    return write


@pytest.fixture
def both(write):
    a = write("a.json", {"k": (0, 0), "l": (1, 0), "m": (2, 0), "x": (0, 1)})
    b = write("b.json", {"k": (2, 0), "l": (2, 0), "m": (1, 0)}, lr=0.2)
    return a, b


def cells(line):
    return [cell.strip() for cell in line.strip("│").split("│")]


def test_the_table_fits_80_characters_and_says_what_was_left_out(both, capsys):
    assert main(["compare", *both]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:4] == [
        f"A  {both[0]}, 4 problems, 2 samples of each",
        f"B  {both[1]}, 3 problems, 2 samples of each",
        "3 problems are compared; left out, as the other lacks them: 1 of A, 0 of B",
        "A: 1 of 8 completions could not be scored (a reward failed or gave no number); they count "
        "as wrong",
    ]
    table = [line for line in lines if line.startswith("│")]
    assert max(map(len, table)) == 80
    # d: +1, +.5, -.5: mean 1/3, squares 1.5 - 1/3 over 2: 7/12, over 3 its root: .441; t 4.303
    row = ["3", "0.500", "0.833", "+0.333", "-1.564 to +2.231", "1", "2"]
    assert [cells(line) for line in table[:2]] == [["3", *row], ["all", *row]]
    assert cells(table[2]) == ["eval/pass_rate", "0.25", "0.25"]
    assert cells(table[3]) == ["rollout/tokens", "12,345", "12,345"]
    assert cells(table[4]) == ["optim.lr", "0.1", "0.2"]


def test_scripts_get_the_same_as_json(both, capsys):
    assert main(["compare", *both, "--json"]) == 0
    tree = json.loads(capsys.readouterr().out)
    assert (tree["a"], tree["b"], tree["left_out"]) == (*both, {"a": 1, "b": 0})
    assert [(each["source"], each["level"]) for each in tree["differences"]] == [
        ("sums", 3),
        (None, None),
    ]
    assert tree["differences"][-1]["difference"] == pytest.approx(1 / 3)
    assert tree["settings"] == {"optim.lr": ["0.1", "0.2"]}


def test_equal_settings_are_said_to_be_equal(both, capsys):
    assert main(["compare", both[0], both[0]]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "no setting differs"


def test_nothing_in_common_ends_with_code_2(write, capsys):
    assert main(["compare", write("a.json", {"k": (0, 0)}), write("b.json", {"l": (0, 0)})]) == 2
    error = capsys.readouterr().err
    assert "no held-out problem in common" in error and error.count("\n") == 1


@pytest.mark.slow
def test_a_run_and_an_evaluation_of_it_have_the_same_results(finished, small, capsys):
    run_dir = shutil.copytree(finished / "runs" / "small", small.parent / "runs" / "small")
    assert main(["evaluate", str(run_dir), "--out", "again.json"]) == 0
    assert main(["evaluate", str(run_dir), "--base", "--out", "base.json"]) == 0
    capsys.readouterr()
    assert main(["compare", str(run_dir), "again.json", "--json"]) == 0
    tree = json.loads(capsys.readouterr().out)
    assert tree["a"] == f"{run_dir} after step 5" and tree["left_out"] == {"a": 0, "b": 0}
    assert tree["settings"] == {}
    total = tree["differences"][-1]
    assert (total["num_problems"], total["higher_a"], total["higher_b"]) == (12, 0, 0)
    assert main(["compare", "base.json", str(run_dir), "--json"]) == 0
    total = json.loads(capsys.readouterr().out)["differences"][-1]
    evaluated = [
        row["eval/pass_rate"]
        for row in map(json.loads, (run_dir / "metrics.jsonl").read_text().splitlines())
        if "eval/pass_rate" in row
    ]
    assert (total["a"], total["b"]) == pytest.approx((evaluated[0], evaluated[-1]))
