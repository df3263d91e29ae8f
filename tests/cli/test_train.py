import json
import shlex
from pathlib import Path

import pytest

from rl_llm.cli.main import main
from rl_llm.cli.run_files import how_to_go_on, where_it_goes_on
from rl_llm.config import dump_yaml, load_recipe
from rl_llm.trainer import RunFolder

pytestmark = pytest.mark.slow

QUICK = ["run.steps=1", "curriculum.refill.max_rounds=0", "optim.epochs=1"]
# One-digit sums are solved every time, so that no group can teach anything.
SOLVED = [*QUICK, "data.train.0={use: arithmetic, levels: [1], size: 20, split: train}"]


def next_commands(printed):
    return [shlex.split(line)[1:] for line in printed.partition("next:")[2].strip().splitlines()]


def test_outside_a_terminal_a_run_prints_plain_lines_and_ends_with_a_table(finished):
    printed = (finished / "printed.txt").read_text(encoding="utf-8")
    assert "\x1b" not in printed
    assert "\nprocesses: 1 (cpu)\ndata.train: 60 problems\n  arithmetic level 3: 20\n" in printed
    assert "held-out pass rate after step 0: 0.583 +- 0.149 (12 problems, " in printed
    steps = [line for line in printed.splitlines() if line.startswith("step ")]
    assert [line.split()[1] for line in steps] == ["1/5", "2/5", "3/5", "4/5", "5/5"]
    for word in ("pass ", "informative ", "beta ", "KL ", "tokens/s"):
        assert all(word in line for line in steps)
    assert "best and worst completions of step 5" in printed
    table = printed[printed.rindex("held-out pass rate") :]
    assert [word for word in ("level", "step 0", "step 5", "change", "mean") if word in table] == [
        "level",
        "step 0",
        "step 5",
        "change",
        "mean",
    ]
    assert "adapter  runs/small/adapter\nreport   runs/small/report.html\n\nnext:\n" in printed


def test_after_overrides_the_next_commands_name_the_recipe_as_run_and_work(small, capsys):
    assert main(["train", str(small), *QUICK, "run.output_dir=else where"]) == 0
    commands = next_commands(capsys.readouterr().out)
    assert [words[0] for words in commands] == ["evaluate", "data", "train", "compare"]
    assert commands[1][-1] == commands[2][1] == "else where/small/resolved.yaml"
    assert [main(words) for words in commands] == [0, 0, 0, 0]
    assert Path("else where/small-uniform/adapter").is_dir()


def test_the_uniform_command_works_where_the_sampler_has_options(small, capsys):
    assert main(["train", str(small), *QUICK, "curriculum.sampler.floor=0.2"]) == 0
    commands = {words[0]: words for words in next_commands(capsys.readouterr().out)}
    assert main(commands["train"]) == 0


def test_without_held_out_problems_there_is_no_table_and_nothing_to_evaluate(
    small, capsys, read_metrics
):
    alone = ["data.eval=[]", "eval.train_problems=0"]
    assert main(["train", str(small), *QUICK, *alone]) == 0
    printed = capsys.readouterr().out
    assert "held-out pass rate" not in printed
    assert [words[0] for words in next_commands(printed)] == ["data", "train"]
    assert Path("runs/small/report.html").is_file()
    assert read_metrics("runs/small")[0] == {"step": 0}


def test_a_run_ends_once_the_held_out_pass_rate_is_reached_behind_a_step(
    small, read_metrics, capsys
):
    assert main(["train", str(small), "eval={every: 1, stop_when: 0.1}"]) == 0
    assert [row["step"] for row in read_metrics("runs/small")] == [0, 1]
    rate = read_metrics("runs/small")[0]["eval/pass_rate"]
    (said,) = [line for line in capsys.readouterr().out.splitlines() if "eval.stop_when" in line]
    assert said.startswith(
        f"the held-out pass rate of {rate:.3f} reaches eval.stop_when=0.1 before"
    )
    assert Path("runs/small/checkpoints/step-000001").is_dir()
    assert Path("runs/small/adapter").is_dir()


def test_a_step_that_teaches_nothing_is_told_and_trains_nothing(small, capsys, read_metrics):
    assert main(["train", str(small), *SOLVED]) == 0
    assert "nothing to learn from in 4 groups" in capsys.readouterr().out
    row = read_metrics("runs/small")[-1]
    assert (row["train/pass_rate"], row["train/groups_admitted"]) == (1.0, 0)
    assert (row["loss/policy"], row["optim/grad_norm"], row["train/trained_tokens"]) == (0, 0, 0)


def test_a_step_that_teaches_nothing_can_end_the_run_with_1(small, capsys, read_metrics):
    stop = "curriculum.refill.when_dry=stop"
    assert main(["train", str(small), *SOLVED, stop]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: nothing to learn from in 4 groups")
    assert "4 all correct" in error and "add harder problems" in error
    assert read_metrics("runs/small")[-1]["train/groups_admitted"] == 0
    assert len(Path("runs/small/draws.jsonl").read_text(encoding="utf-8").splitlines()) == 4
    assert Path("runs/small/checkpoints/step-000001").is_dir()


def test_a_run_that_ended_with_an_error_has_failed_until_it_goes_on(small, capsys):
    command = ["train", str(small), *SOLVED, "curriculum.refill.when_dry=stop"]

    def state():
        assert main(["runs", "--json"]) == 0
        return json.loads(capsys.readouterr().out)[0]["state"]

    assert main(command) == 1
    assert Path("runs/small/failure.txt").read_text(encoding="utf-8") == capsys.readouterr().err
    assert state() == "failed"
    assert main(["train", str(small), *SOLVED, "run.steps=0"]) == 2
    capsys.readouterr()
    assert state() == "failed"
    assert main(command) == 0
    capsys.readouterr()
    assert state() == "finished"
    assert not Path("runs/small/failure.txt").exists()


def test_resume_never_starts_a_run_in_a_new_folder(small):
    assert main(["train", str(small), *QUICK, "--resume", "never"]) == 0
    assert Path("runs/small/adapter").is_dir()


def test_a_run_that_stopped_before_its_first_checkpoint_starts_over(small, capsys, read_metrics):
    folder = Path("runs/small")
    folder.mkdir(parents=True)
    (folder / "metrics.jsonl").write_text('{"step": 0}\n{"step": 1}\n', encoding="utf-8")
    assert main(["train", str(small), *QUICK]) == 0
    assert "runs/small holds a run without a checkpoint; it starts over" in capsys.readouterr().out
    rows = read_metrics(folder)
    assert [row["step"] for row in rows] == [0, 1]
    assert "eval/pass_rate" in rows[0]


def test_the_final_adapter_of_a_shorter_run_is_replaced_by_the_longer_ones(small):
    constant = ["kl={controller: {name: constant}}", *QUICK]
    assert main(["train", str(small), *constant]) == 0
    weights = Path("runs/small/adapter/adapter_model.safetensors")
    shorter = weights.read_bytes()
    assert main(["train", str(small), *constant, "run.steps=2"]) == 0
    newest = Path("runs/small/checkpoints/step-000002/adapter/adapter_model.safetensors")
    assert weights.read_bytes() == newest.read_bytes() != shorter


def test_the_folder_of_another_recipes_run_without_a_checkpoint_is_not_touched(small, capsys):
    run = small.parent / "runs" / "small"
    run.mkdir(parents=True)
    other = load_recipe(small, [*QUICK, "optim.lr=0.5"])
    (run / "resolved.yaml").write_text(dump_yaml(other), encoding="utf-8")
    (run / "metrics.jsonl").write_text('{"step": 0}\n', encoding="utf-8")
    assert main(["train", str(small), *QUICK]) == 2
    assert "optim.lr: 0.5 in the checkpoint" in capsys.readouterr().err
    assert (run / "metrics.jsonl").read_text(encoding="utf-8") == '{"step": 0}\n'


def test_a_run_that_ended_before_its_first_row_may_be_mended_and_started_again(small):
    run = small.parent / "runs" / "small"
    run.mkdir(parents=True)
    other = load_recipe(small, [*QUICK, "optim.lr=0.5"])
    (run / "resolved.yaml").write_text(dump_yaml(other), encoding="utf-8")
    (run / "metrics.jsonl").touch()
    assert main(["train", str(small), *QUICK]) == 0


def test_a_run_set_back_to_an_earlier_checkpoint_forgets_the_later_ones(small):
    steps = ["run.steps=3", "checkpoint={every: 1, keep: 5}", "eval.every=1"]
    assert main(["train", str(small), *steps]) == 0
    run = small.parent / "runs" / "small"
    back = run / "checkpoints" / "step-000001"
    (run / "checkpoints" / "step-000002" / "mark").touch()
    assert main(["train", str(small), *steps, "--resume", str(back)]) == 0
    assert not (run / "checkpoints" / "step-000002" / "mark").exists()
    assert (run / "checkpoints" / "step-000003").is_dir()


def test_a_run_that_is_over_is_no_start_of_another(small, capsys):
    constant = ["kl={controller: {name: constant}}", *QUICK]
    assert main(["train", str(small), *constant]) == 0
    over = ["train", str(small), "run.name=branch", *constant, "--resume", "runs/small"]
    assert main(over) == 2
    assert capsys.readouterr().err == (
        "error: runs/small/checkpoints/step-000001 is the end of another run, after step 1: "
        "nothing is left to train under run.name=branch; raise run.steps above 1, or use that "
        "run's adapter\n"
    )
    assert not list(Path("runs/branch").glob("checkpoints/*"))
    assert main([*over, "run.steps=2"]) == 0
    printed = capsys.readouterr().out
    # The one evaluation of the branch is no change.
    assert "step 2 |" in printed.replace("┃", "|") and "change" not in printed


def test_several_updates_without_a_ratio_are_called_biased_before_the_first_step(small, capsys):
    assert main(["train", str(small), *QUICK, "algorithm={name: reinforce}"]) == 0
    before, first, _ = capsys.readouterr().out.partition("step 1/1")
    assert first and "algorithm 'reinforce' with optim.updates_per_batch=2" in before


@pytest.mark.parametrize(
    ("resume", "again"),
    [
        ("auto", "run the same command again"),
        ("never", "run the same command again (without --resume)"),
        ("runs/small", "run the same command again (without --resume)"),
    ],
)
def test_how_to_go_on_leaves_out_what_would_go_back(tmp_path, resume, again):
    folder = RunFolder(tmp_path)
    said = where_it_goes_on(folder, how_to_go_on(resume))
    assert said == f"{again}: it starts over, for there is no checkpoint yet"
