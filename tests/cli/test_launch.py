"""What is planned for, read from accelerate's files."""

from pathlib import Path

import pytest

from rl_llm.cli.launch import Launch, planned_launch
from rl_llm.errors import ConfigError
from rl_llm.policy.launched import ZeroSettings

FILES = Path(__file__).parents[2] / "recipes" / "accelerate"


def planned(name, num_ranks=None, dtype="float32"):
    return planned_launch(str(FILES / f"{name}.yaml"), num_ranks, dtype=dtype)


@pytest.mark.parametrize(
    ("name", "num_ranks", "stage"),
    [("cpu", 2, 0), ("ddp", 8, 0), ("zero2", 8, 2), ("zero3", 8, 3), ("multinode", 16, 2)],
)
def test_a_shipped_file_says_how_many_processes_and_which_stage(name, num_ranks, stage):
    launch = planned(name)
    assert (launch.num_ranks, launch.stage, launch.on_gpus) == (num_ranks, stage, name != "cpu")
    assert planned(name, 3).num_ranks == 3


def test_a_number_alone_is_plain_data_parallelism_and_nothing_is_no_plan():
    assert planned_launch(None, 8, dtype="float32") == Launch(num_ranks=8)
    assert planned_launch(None, None, dtype="float32") is None


def test_offloading_is_read(tmp_path):
    text = (FILES / "zero3.yaml").read_text(encoding="utf-8")
    file = tmp_path / "offload.yaml"
    file.write_text(text.replace("device: none", "device: cpu"), encoding="utf-8")
    settings = ZeroSettings(stage=3, offloads_optimizer=True, offloads_weights=True)
    assert planned_launch(str(file), None, dtype="float32").zero == settings


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("distributed_type: FSDP", "distributed_type=FSDP in .*see recipes/accelerate"),
        ("distributed_type: DEEPSPEED\ndeepspeed_config: {zero_stage: 1}", "zero_stage=1"),
        (
            "distributed_type: DEEPSPEED\ndeepspeed_config: {zero3_init_flag: true}",
            "zero3_init_flag=true",
        ),
        ("mixed_precision: fp16", "mixed_precision=fp16"),
        ("mixed_precision: no", "mixed_precision=false in .* write 'no' in quotes"),
        ("num_processes: many", "num_processes='many' in .*whole number"),
        ("- 1", "no configuration of accelerate's"),
        ("a: [", "no configuration of accelerate"),
    ],
)
def test_what_a_run_would_refuse_is_refused(tmp_path, text, message):
    file = tmp_path / "launch.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        planned_launch(str(file), None, dtype="float32")


@pytest.mark.parametrize("no", ["distributed_type: NO", 'distributed_type: "NO"'])
def test_without_a_distributed_type_accelerate_starts_one_process(tmp_path, no):
    file = tmp_path / "launch.yaml"
    file.write_text(f"{no}\nnum_processes: 2", encoding="utf-8")
    assert planned_launch(str(file), None, dtype="float32") == Launch(num_ranks=1)


def test_no_processes_and_no_file_are_refused():
    with pytest.raises(ConfigError, match="--processes 0"):
        planned_launch(None, 0, dtype="float32")
    with pytest.raises(ConfigError, match=r"nowhere\.yaml cannot be read"):
        planned_launch("nowhere.yaml", None, dtype="float32")
