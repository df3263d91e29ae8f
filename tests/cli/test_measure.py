"""`rl-llm data measure` on the shipped model."""

import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from rl_llm.cli import measure as measure_module
from rl_llm.cli.main import main
from rl_llm.cli.measure import _cells, _notes, expected_mixed_share
from rl_llm.cli.measured import MeasuredFile
from rl_llm.config.sections import LoraSection
from rl_llm.errors import InputError, StorageError
from rl_llm.policy import add_lora, load_base
from rl_llm.problems import Pool
from rl_llm.records import Problem

ONE_THREAD = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}


def row(key, **values):
    defaults = {"source": "s", "level": "1", "num_correct": 1, "num_counted": 4}
    return {"key": key, **defaults, "pass_rate": 0.25, "mean_tokens": 3.0, **values}


@pytest.fixture
def measure(small, capsys):
    """Run the command on three problems of each of three levels; return its code and output."""

    def run(out, *arguments):
        words = ["data", "measure", str(small), "--out", str(out), *arguments]
        code = main([*words, "data.train.0.size=9", "data.eval.0.size=3"])
        return code, capsys.readouterr()

    return run


def cells(printed):
    lines = [line for line in printed.splitlines() if line.startswith("│")]
    return [[cell.strip() for cell in line.strip("│").split("│")] for line in lines]


def test_names_in_brackets_are_shown_as_they_are_written():
    problem = Problem(key="k", prompt="1+1=", answer="2", source="[/b]", level="[easy]")
    pool = Pool(problems=(problem,), num_read=1, where="data.train")
    out = io.StringIO()
    measure_module._show(Console(file=out, width=100), pool, [row("k")], group_size=2)
    assert cells(out.getvalue())[0][:3] == ["[/b]", "[easy]", "1"]


def test_the_share_of_mixed_groups_has_the_hand_worked_value():
    # of 4 completions 2 are right: pairs are alike in 2 of 6 cases, triples and quadruples never
    assert expected_mixed_share(2, 4, group_size=2) == pytest.approx(4 / 6)
    assert (
        expected_mixed_share(2, 4, group_size=3) == expected_mixed_share(2, 4, group_size=4) == 1.0
    )
    # 1 of 8 right: it is among 4 of them in half of the cases
    assert expected_mixed_share(1, 8, group_size=4) == pytest.approx(1 / 2)
    none = expected_mixed_share([0, 8, 0, 1], [8, 8, 0, 1], group_size=4)
    np.testing.assert_array_equal(none, np.zeros(4))


def test_the_share_of_mixed_groups_is_right_on_average():
    p, rng = 0.2, np.random.default_rng(0)
    correct_N = rng.binomial(12, p, 100_000)
    found = expected_mixed_share(correct_N, np.full(100_000, 12), group_size=8).mean()
    assert found == pytest.approx(1 - p**8 - (1 - p) ** 8, abs=0.005)


def test_fewer_completions_than_a_group_give_a_lower_bound():
    assert expected_mixed_share(1, 2, group_size=8) == 1.0
    assert expected_mixed_share(2, 2, group_size=8) == 0.0


def test_problems_without_a_pass_rate_are_no_groups_that_are_not_mixed():
    correct_N, counted_N = np.array([4, 4, 0, 0]), np.array([8, 8, 0, 0])
    mixed_N = expected_mixed_share(correct_N, counted_N, group_size=8)
    assert _cells(correct_N, counted_N, mixed_N) == ("4", "0.500", "1.000")
    assert _cells(correct_N[2:], counted_N[2:], mixed_N[2:]) == ("2", "-", "-")


@pytest.mark.parametrize(
    ("counted", "told"),
    [
        ([8, 8], []),
        ([4, 4], ["a lower bound, from groups of 4; --samples 8 or more"]),
        ([8, 2], ["a lower bound, from groups of 2 and more; rewards of the other completions"]),
        ([8, 0], ["1 problem has no pass rate"]),
    ],
)
def test_the_notes_under_a_measurement_say_what_its_mixed_groups_leave_out(counted, told):
    notes = list(_notes(np.array(counted), group_size=8))
    assert len(notes) == len(told)
    assert all(part in note for part, note in zip(told, notes, strict=True))


def test_parts_become_one_file_in_the_order_asked_for(tmp_path):
    file, identity = tmp_path / "m.parquet", {"samples": 4}
    first = MeasuredFile(file, identity=identity)
    first.append([row("b"), row("a", num_counted=0, pass_rate=None)])
    (tmp_path / "m.parquet.parts" / "000001.parquet.partial").write_text("killed while writing")
    second = MeasuredFile(file, identity=identity)
    assert list(second.rows) == ["b", "a"]
    second.append([row("c")])
    second.finish(["a", "c"])
    assert [each["key"] for each in pq.read_table(file).to_pylist()] == ["a", "c", "b"]
    assert [path.name for path in tmp_path.iterdir()] == ["m.parquet"]
    assert MeasuredFile(file, identity=identity).rows["a"]["pass_rate"] is None


def test_another_measurement_is_refused_with_the_difference(tmp_path):
    file = tmp_path / "m.parquet"
    MeasuredFile(file, identity={"samples": 4, "temperature": 1.0}).append([row("a")])
    message = r"000000\.parquet was measured otherwise:\n  samples: 4 there, 8 now\ngive another"
    with pytest.raises(InputError, match=message):
        MeasuredFile(file, identity={"samples": 8, "temperature": 1.0})


def test_a_file_of_another_kind_is_never_overwritten(tmp_path):
    file = tmp_path / "m.parquet"
    pq.write_table(pa.table({"key": ["a"]}), file)
    with pytest.raises(InputError, match="was not written by `rl-llm data measure`"):
        MeasuredFile(file, identity={})


def test_every_problem_of_the_pool_has_its_pass_rate(measure, tmp_path):
    out = tmp_path / "new" / "m.parquet"
    code, printed = measure(out, "--samples", "4", "--batch-problems", "4")
    assert code == 0, printed.err
    assert "data.train: 9 problems, 4 completions of each\n" in printed.out
    assert "measured 4/9 problems" in printed.out and "measured 9/9 problems" in printed.out
    table = pq.read_table(out)
    rows = table.to_pylist()
    assert [each["level"] for each in rows] == ["3"] * 3 + ["5"] * 3 + ["7"] * 3
    assert all(each["num_counted"] == 4 for each in rows)
    assert all(each["pass_rate"] == each["num_correct"] / 4 for each in rows)
    assert all(20 < each["mean_tokens"] <= 96 for each in rows)
    rates = {each["level"]: [] for each in rows}
    for each in rows:
        rates[each["level"]].append(each["pass_rate"])
    shown = {level: rate for _, level, _, rate, _ in cells(printed.out)}
    assert {level: f"{np.mean(rates[level]):.3f}" for level in rates} == {
        level: shown[level] for level in rates
    }
    assert shown["3"] > shown["7"]


def test_a_batch_that_cannot_be_kept_is_one_line(tmp_path):
    (tmp_path / "m.parquet.parts").touch()
    with pytest.raises(StorageError, match=r"/m\.parquet\.parts cannot be written: File exists \("):
        MeasuredFile(tmp_path / "m.parquet", identity={}).append([row("a")])


def test_a_name_of_another_format_is_refused_with_the_right_one(measure):
    code, printed = measure("m.csv", "--samples", "1")
    assert code == 2
    assert printed.err == ("error: --out m.csv: what is written is parquet; name it m.parquet\n")


def test_a_folder_that_nothing_can_be_written_to_is_refused_before_anything_is_measured(measure):
    code, printed = measure("/sys/m.parquet", "--samples", "1")  # Not even by root.
    assert code == 2
    assert printed.err.startswith("error: --out /sys/m.parquet: its folder cannot be written to: ")
    assert printed.err.count("\n") == 1
    assert "measured" not in printed.out


def test_what_is_measured_already_is_not_measured_again_and_the_rest_is_added(measure, tmp_path):
    out = tmp_path / "m.parquet"
    assert measure(out, "--samples", "2")[0] == 0
    code, printed = measure(out, "--samples", "2", "--split", "eval")
    assert (code, "data.eval: 3 problems, 2 completions of each\n" in printed.out) == (0, True)
    assert pq.read_table(out).num_rows == 12
    code, printed = measure(out, "--samples", "2")
    assert "9 problems are measured already" in printed.out
    assert "measured 9/9" not in printed.out


def test_another_model_temperature_or_reward_is_refused_by_name(measure, tmp_path, repository):
    out = tmp_path / "m.parquet"
    assert measure(out, "--samples", "1")[0] == 0
    other = repository / "data" / "models" / "carry-adder-frontier"
    for word, name in (
        (f"model.path={other}", "model: "),
        ("rollout.temperature=0.5", "rollout.temperature: 1.0 there, 0.5 now"),
        ("rollout.max_new_tokens=90", "rollout.max_new_tokens: 96 there, 90 now"),
        ("rewards.0.weight=2.0", "rewards: "),
        ("run.seed=7", "run.seed: 0 there, 7 now"),
    ):
        code, printed = measure(out, "--samples", "1", word)
        assert code == 2
        assert name in printed.err
    code, printed = measure(out, "--samples", "1", "--adapter", str(tmp_path))
    assert code == 2
    assert "there is no adapter_config.json" in printed.err


def test_an_adapter_is_measured_in_place_of_the_bare_model(measure, tmp_path, repository):
    model = repository / "data" / "models" / "carry-adder"
    adapted = add_lora(load_base(str(model), dtype="float32"), LoraSection(rank=1), seed=0)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            parameter.data.fill_(1.0)  # Whatever the model knew is gone.
    adapted.save_pretrained(tmp_path / "ruin")
    for out, words in (("bare.parquet", []), ("ruin.parquet", ["--adapter", "ruin"])):
        assert measure(out, "--samples", "2", *words)[0] == 0
    rates = [pq.read_table(out)["pass_rate"].to_numpy() for out in ("bare.parquet", "ruin.parquet")]
    assert rates[0].mean() > 0.3
    assert rates[1].max() == 0.0
    code, printed = measure("bare.parquet", "--samples", "2", "--adapter", "ruin")
    assert code == 2
    assert "adapter: None there, " in printed.err


def heed_interrupts():
    """Undo what a shell does to jobs in the background, which have SIGINT ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.mark.slow
def test_a_measurement_that_is_interrupted_goes_on_to_the_same_file(small, program):
    words = ["data", "measure", small, "--samples", "8", "--batch-problems", "2", "--out"]
    whole = program(*words, "whole.parquet", folder=small.parent)
    assert whole.returncode == 0, whole.stderr
    process = subprocess.Popen(
        [sys.executable, "-m", "rl_llm", *map(str, words), "cut.parquet"],
        cwd=small.parent,
        env=os.environ | ONE_THREAD,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heed_interrupts,
    )
    parts = small.parent / "cut.parquet.parts"
    deadline = time.monotonic() + 120
    while not (parts / "000001.parquet").exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    printed, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (130, "interrupted\n")
    num_parts = len(list(parts.glob("*.parquet")))
    assert 2 <= num_parts < 30
    assert printed.endswith(
        f"{2 * num_parts} of 60 problems are measured and kept; run the same command again to go "
        "on\n"
    )
    resumed = program(*words, "cut.parquet", folder=small.parent)
    assert f"{2 * num_parts} problems are measured already" in resumed.stdout
    assert Path("cut.parquet").read_bytes() == Path("whole.parquet").read_bytes()
    assert not parts.exists()
