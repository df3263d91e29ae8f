"""A checkpoint that is not as it was written is found out, kept aside, and done without."""

import json
import shutil

import pytest

from rl_llm.cli.main import main


@pytest.fixture
def copied(finished, tmp_path, monkeypatch):
    """Stand in a copy of the folder with the finished run; return the run's folder."""
    folder = tmp_path / "copy"
    shutil.copytree(finished, folder)
    monkeypatch.chdir(folder)
    return folder / "runs" / "small"


def flip_a_bit(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def truncate(file, num_bytes):
    with file.open("r+b") as handle:
        handle.truncate(num_bytes)


@pytest.mark.slow
def test_the_checkpoint_before_is_gone_on_from_and_ends_in_the_same_run(
    copied, finished, program, assert_same_run
):
    damaged = copied / "checkpoints" / "step-000005"
    truncate(damaged / "trainer" / "policy.pt", 1024)
    whole_bytes = (finished / damaged.relative_to(copied.parents[1]) / "trainer" / "policy.pt").stat
    done = program("train", "small.yaml", folder=copied.parents[1])
    assert done.returncode == 0, done.stderr
    assert (
        "warning: damaged: runs/small/checkpoints/step-000005 (trainer/policy.pt is truncated: "
        f"1,024 of {whole_bytes().st_size:,} bytes; kept as step-000005.damaged); step-000004 is "
        "used instead\nresuming runs/small/checkpoints/step-000004, after step 4 of 5\n"
    ) in done.stdout
    aside = copied / "checkpoints" / "step-000005.damaged"
    assert (aside / "trainer" / "policy.pt").stat().st_size == 1024
    names = sorted(path.name for path in (copied / "checkpoints").iterdir())
    assert names == ["step-000004", "step-000005", "step-000005.damaged"]
    shutil.rmtree(aside)
    assert_same_run(copied, finished / "runs" / "small")


@pytest.mark.slow
def test_a_damaged_checkpoint_that_was_named_ends_with_its_fault_and_changes_nothing(
    copied, capsys
):
    named = "runs/small/checkpoints/step-000004"
    flip_a_bit(copied / "checkpoints" / "step-000004" / "adapter" / "adapter_model.safetensors")
    assert main(["train", "small.yaml", "--resume", named]) == 2
    assert capsys.readouterr().err == (
        f"error: {named} is damaged: adapter/adapter_model.safetensors has another checksum than "
        "it was written with; name another checkpoint\n"
    )
    assert (copied / "checkpoints" / "step-000004").is_dir() and (copied / "adapter").is_dir()


@pytest.mark.slow
def test_without_a_whole_checkpoint_the_run_says_so_and_changes_nothing(copied, capsys):
    for name in ("step-000004", "step-000005"):
        flip_a_bit(copied / "checkpoints" / name / "state.json")
    assert main(["train", "small.yaml"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: no checkpoint in runs/small/checkpoints is whole: step-000005 ")
    assert error.count("\n") == 1 and "delete all of them to start over" in error
    names = sorted(path.name for path in (copied / "checkpoints").iterdir())
    assert names == ["step-000004", "step-000005"]


@pytest.mark.slow
def test_a_checkpoint_of_an_older_format_says_which_version_reads_it(copied, capsys):
    for checkpoint in (copied / "checkpoints").iterdir():
        (checkpoint / "manifest.json").unlink()
        state = json.loads((checkpoint / "state.json").read_text())
        (checkpoint / "state.json").write_text(json.dumps(state | {"format": 3}))
    assert main(["train", "small.yaml"]) == 2
    assert capsys.readouterr().err == (
        "error: runs/small/checkpoints/step-000005 has format 3, and this version reads 4; resume "
        "it with the version that wrote it\n"
    )


@pytest.mark.slow
def test_other_commands_read_the_newest_checkpoint_that_is_whole(copied, capsys):
    truncate(copied / "checkpoints" / "step-000005" / "curriculum.parquet", 10)
    assert main(["data", "beliefs", "runs/small", "--out", "beliefs.parquet"]) == 0
    assert capsys.readouterr().out.startswith("beliefs after step 4: ")
    shutil.rmtree(copied / "adapter")
    assert main(["evaluate", "runs/small"]) == 0
    assert "runs/small/checkpoints/step-000004/adapter" in capsys.readouterr().out


@pytest.mark.slow
def test_going_back_to_an_earlier_checkpoint_says_what_goes(copied, capsys, read_metrics):
    constant = ["run.steps=4", "kl={controller: {name: constant}}"]
    shutil.rmtree(copied)
    assert main(["train", "small.yaml", *constant]) == 0
    capsys.readouterr()
    earlier = "runs/small/checkpoints/step-000002"
    assert main(["train", "small.yaml", *constant[1:], "run.steps=3", "--resume", earlier]) == 0
    assert (
        "going back to step 2: the rows of steps 3 to 4 and checkpoint step-000004 are "
        f"dropped\nresuming {earlier}, after step 2 of 3\n"
    ) in capsys.readouterr().out
    names = sorted(path.name for path in (copied / "checkpoints").iterdir())
    assert names == ["step-000002", "step-000003"]
    assert [row["step"] for row in read_metrics(copied)] == [0, 1, 2, 3]
