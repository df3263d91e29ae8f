import json
import shutil
import subprocess
import sys

import pytest

from rl_llm.cli.main import main

pytestmark = pytest.mark.slow


@pytest.fixture
def run_dir(finished, small):
    """A copy of the finished run."""
    return shutil.copytree(finished / "runs" / "small", small.parent / "runs" / "small")


@pytest.fixture
def rows(run_dir, read_metrics):
    """The evaluated rows of the run by step."""
    return {row["step"]: row for row in read_metrics(run_dir) if "eval/pass_rate" in row}


@pytest.fixture
def evaluate(capsys):
    """Return the printed table as lists of cells, by its first column, and all that was printed."""

    def run(*arguments):
        assert main(["evaluate", *map(str, arguments)]) == 0
        printed = capsys.readouterr().out
        lines = [line for line in printed.splitlines() if line.startswith("│")]
        cells = [[cell.strip() for cell in line.strip("│").split("│")] for line in lines]
        return {first: rest for first, *rest in cells}, printed

    return run


def table_of(row):
    """The table that a row of metrics amounts to; four problems of each of three levels."""
    means = {level: f"{row[f'eval/pass_rate/level={level}']:.3f}" for level in (3, 5, 7)}
    return {
        **{str(level): ["4", mean] for level, mean in means.items()},
        "all": ["12", f"{row['eval/pass_rate']:.3f}", f"{row['eval/pass_rate_se']:.3f}"],
    }


def without_level_errors(table):
    return {first: rest if first == "all" else rest[:2] for first, rest in table.items()}


def files_of(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


@pytest.mark.parametrize("name", ["no: model", "1350", "null", "a #1", "modèle"])
def test_a_models_name_is_taken_as_it_is_written(capsys, small, name):
    assert main(["evaluate", name, "--recipe", str(small)]) == 2
    assert f"model.path={name!r} is not a folder" in capsys.readouterr().err


def test_a_run_is_evaluated_with_its_final_adapter_as_at_its_last_step(evaluate, run_dir, rows):
    before = files_of(run_dir)
    table, printed = evaluate(run_dir)
    assert f"adapter {run_dir}/adapter\n" in printed
    assert without_level_errors(table) == table_of(rows[5])
    assert files_of(run_dir) == before


def test_the_base_of_a_run_is_the_model_before_training(evaluate, run_dir, rows):
    table, printed = evaluate(run_dir, "--base")
    assert "adapter" not in printed
    assert without_level_errors(table) == table_of(rows[0])


def test_a_model_is_evaluated_on_the_problems_of_a_recipe(evaluate, small, rows, repository):
    model = repository / "data" / "models" / "carry-adder"
    table, _ = evaluate(model, "--recipe", small, "model.dtype=float32")
    assert without_level_errors(table) == table_of(rows[0])


def test_completions_that_could_not_be_scored_are_counted_below_the_table(
    evaluate, small, repository
):
    picky = small.with_name("picky.py")
    picky.write_text("def picky(problem):\n    return {5: 1.0, 7: 1.0}[problem.level]\n")
    model = repository / "data" / "models" / "carry-adder"
    override = f"rewards=[{{use: '{picky}:picky'}}]"
    table, printed = evaluate(model, "--recipe", small, "model.dtype=float32", override)
    assert table["all"][1] == "0.667"
    assert printed.splitlines()[-1].startswith("4 of 12 completions could not be scored")


def test_a_run_that_has_not_ended_is_evaluated_with_its_newest_checkpoint(evaluate, run_dir, rows):
    shutil.rmtree(run_dir / "adapter")
    shutil.rmtree(run_dir / "checkpoints" / "step-000005")
    table, printed = evaluate(run_dir)
    assert f"adapter {run_dir}/checkpoints/step-000004/adapter\n" in printed
    assert without_level_errors(table) == table_of(rows[4])


def test_a_run_without_any_adapter_is_refused_and_told_of_base(run_dir, capsys):
    shutil.rmtree(run_dir / "adapter")
    shutil.rmtree(run_dir / "checkpoints")
    assert main(["evaluate", str(run_dir)]) == 2
    error = capsys.readouterr().err
    assert "has neither a final adapter nor a checkpoint" in error and "--base" in error
    assert "wait" not in error  # It may have failed.


def test_more_samples_a_problem_can_be_asked_for(evaluate, run_dir):
    _, printed = evaluate(run_dir, "eval.samples_per_problem=3")
    assert "held-out pass rate, 3 samples a problem" in printed
    assert [heading for heading in ("pass@2", "maj@2", "pass@4") if heading in printed] == [
        "pass@2",
        "maj@2",
    ]


def test_pass_at_k_and_maj_at_k_are_printed_and_written_with_the_result_of_each_problem(
    evaluate, run_dir, tmp_path
):
    out = tmp_path / "new" / "results.json"
    _, printed = evaluate(run_dir, "--samples", 4, "--out", out, "eval.samples_per_problem=2")
    assert printed.splitlines()[-1] == f"written: {out}"
    tree = json.loads(out.read_text(encoding="utf-8"))
    assert tree["adapter"] == f"{run_dir}/adapter"
    assert tree["recipe"]["eval"]["samples_per_problem"] == 4
    problems = tree["problems"]
    assert len(problems) == 12 and {each["samples"] for each in problems} == {4}
    # Of the 6 pairs of 4 samples, c correct ones are in 0, 3, 5, 6 and 6.
    pairs = [(0, 3, 5, 6, 6)[each["correct"]] / 6 for each in problems]
    level, *_, total = tree["estimates"]
    assert (level["level"], level["problems"], total["level"], total["problems"]) == (
        3,
        4,
        None,
        12,
    )
    assert list(total) == [
        *("source", "level", "problems", "pass@1", "pass@2", "pass@4", "maj@2", "maj@4")
    ]
    assert total["pass@2"]["mean"] == pytest.approx(sum(pairs) / 12)
    assert total["pass@4"]["mean"] == pytest.approx(sum(p["correct"] > 0 for p in problems) / 12)
    assert total["maj@4"]["mean"] == pytest.approx(sum(p["majority"]["4"] for p in problems) / 12)
    # Three or four of a kind are the majority.
    assert all(p["majority"]["4"] == 1.0 for p in problems if p["correct"] >= 3)
    assert all(p["majority"]["4"] == 0.0 for p in problems if p["correct"] == 0)
    assert tree["metrics"]["eval/pass_at_2"] == total["pass@2"]["mean"]
    rate = total["maj@4"]
    assert f"{rate['mean']:.3f} +-{rate['standard_error']:.3f}" in printed


def test_what_is_to_be_written_is_though_nobody_reads_on(run_dir, tmp_path):
    out = tmp_path / "results.json"
    words = ["-m", "rl_llm", "evaluate", str(run_dir), "--out", str(out)]
    with subprocess.Popen([sys.executable, *words], stdout=subprocess.PIPE) as process:
        assert process.stdout.readline().startswith(b"engine: ")
        process.stdout.close()
        assert process.wait(timeout=120) == 0
    assert len(json.loads(out.read_text(encoding="utf-8"))["problems"]) == 12


def test_sources_are_measured_apart(evaluate, small, repository):
    both = "data.eval=[{use: arithmetic, levels: [3], size: 4, split: eval, seed: 1}, "
    both += "{use: jsonl, path: sums.jsonl, level: level}]"
    rows = [{"prompt": f"{n}+1=", "answer": str(n + 1), "level": 1} for n in (3, 5)]
    small.with_name("sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    model = repository / "data" / "models" / "carry-adder"
    _, printed = evaluate(model, "--recipe", small, "model.dtype=float32", both)
    lines = [line for line in printed.splitlines() if line.startswith("│")]
    cells = [[cell.strip() for cell in line.strip("│").split("│")] for line in lines]
    assert [row[:3] for row in cells] == [
        ["arithmetic", "3", "4"],
        ["arithmetic", "all", "4"],
        ["sums", "1", "2"],
        ["sums", "all", "2"],
        ["all", "all", "6"],
    ]


def test_where_no_reward_says_what_an_answer_is_there_is_no_majority(evaluate, run_dir, small):
    own = small.with_name("own.py")
    own.write_text("def own(completion, answer):\n    return float(answer in completion)\n")
    _, printed = evaluate(run_dir, "--samples", 2, f"rewards=[{{use: '{own}:own'}}]")
    assert "pass@2" in printed and "maj@2" not in printed
    assert "maj@k is left out: no reward on channel 'correctness' says" in printed


def test_a_reader_of_answers_that_fails_costs_the_votes_alone(evaluate, run_dir, small):
    own = small.with_name("own.py")
    own.write_text(
        "def own(completion, answer):\n    return float(answer in completion)\n"
        "def read_answer(completion):\n    return [completion]\n"
    )
    _, printed = evaluate(run_dir, "--samples", 2, f"rewards=[{{use: '{own}:own'}}]")
    assert "pass@2" in printed and "maj@2" not in printed
    assert printed.splitlines()[-1].startswith(f"maj@k is left out: {own}: read_answer failed")


def test_greedy_samples_are_said_to_be_all_the_same(evaluate, run_dir):
    _, printed = evaluate(run_dir, "--samples", 2, "rollout.temperature=0")
    assert "note: rollout.temperature=0 draws the same completion 2 times" in printed


def test_a_place_that_cannot_be_written_to_is_refused_before_anything_is_generated(run_dir, capsys):
    assert main(["evaluate", str(run_dir), "--out", str(run_dir)]) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and "is a folder; name a file" in printed.err


def test_a_run_keeps_its_own_model_on_the_problems_of_another_recipe(evaluate, run_dir, small):
    text = small.read_text(encoding="utf-8")
    other = small.with_name("other.yaml")
    other.write_text(
        text.replace("data/models/carry-adder", "no/such/model").replace("size: 12", "size: 6"),
        encoding="utf-8",
    )
    table, _ = evaluate(run_dir, "--recipe", other)
    assert table["all"][0] == "6"


def test_a_checkpoint_of_a_run_is_evaluated_with_the_recipe_and_the_model_of_the_run(
    evaluate, run_dir, rows
):
    checkpoint = run_dir / "checkpoints" / "step-000004"
    for target in (checkpoint, checkpoint / "adapter"):
        table, printed = evaluate(target)
        assert f"adapter {checkpoint}/adapter\n" in printed
        assert without_level_errors(table) == table_of(rows[4])


def test_what_was_pushed_is_evaluated_with_the_recipe_beside_it(evaluate, run_dir, rows, tmp_path):
    folder = tmp_path / "downloaded"
    shutil.copytree(run_dir / "adapter", folder)
    shutil.copy(run_dir / "resolved.yaml", folder)
    table, printed = evaluate(folder)
    assert f"adapter {folder}\n" in printed
    assert without_level_errors(table) == table_of(rows[5])


def test_an_adapter_from_elsewhere_stands_on_the_model_that_it_names(
    evaluate, run_dir, rows, small, tmp_path, capsys
):
    for kind, folder in (("adapter", tmp_path / "a"), ("checkpoint", tmp_path / "c" / "adapter")):
        shutil.copytree(run_dir / "adapter", folder)
        other = small.with_name("other.yaml")
        text = small.read_text(encoding="utf-8")
        other.write_text(text.replace("data/models/carry-adder", "no/such"), encoding="utf-8")
        target = folder if kind == "adapter" else folder.parent
        table, printed = evaluate(target, "--recipe", other)
        assert f"adapter {folder}\n" in printed
        assert without_level_errors(table) == table_of(rows[5])
    assert main(["evaluate", str(target)]) == 2
    assert "nor inside of one" in capsys.readouterr().err
    assert main(["evaluate", "runs/nope"]) == 2
    assert "'runs/nope' is no folder here" in capsys.readouterr().err


def test_an_adapter_that_is_cut_short_is_refused_by_name(run_dir, capsys):
    weights = run_dir / "adapter" / "adapter_model.safetensors"
    with weights.open("r+b") as file:
        file.truncate(weights.stat().st_size - 100)
    assert main(["evaluate", str(run_dir)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {weights} cannot be read (")
    assert error.count("\n") == 1


def test_a_recipe_without_held_out_problems_is_refused(run_dir, capsys):
    assert main(["evaluate", str(run_dir), "data.eval=[]"]) == 2
    assert "data.eval is empty" in capsys.readouterr().err
