"""What is read of accelerate's configuration, and what of it is refused."""

import sys
from pathlib import Path

import pytest
import yaml

from rl_llm.errors import ConfigError
from rl_llm.plugins import load_module
from rl_llm.policy import Ranks
from rl_llm.policy.launched import ZeroSettings, check_precision, zero_settings

ROOT = Path(__file__).parents[2]
USES_DEEPSPEED = "ACCELERATE_USE_DEEPSPEED"


@pytest.fixture
def given(monkeypatch):
    """Set what the launcher would say; `DEEPSPEED_X` is short for `ACCELERATE_DEEPSPEED_X`."""
    monkeypatch.setenv(USES_DEEPSPEED, "true")

    def give(**variables):
        for name, value in variables.items():
            monkeypatch.setenv(f"ACCELERATE_{name}", value)

    return give


def test_without_deepspeed_there_is_nothing_to_read(monkeypatch):
    monkeypatch.delenv(USES_DEEPSPEED, raising=False)
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_ZERO_STAGE", "1")
    assert zero_settings() is None


@pytest.mark.parametrize("stage", [2, 3])
def test_stage_and_offloading_are_read(given, stage):
    given(DEEPSPEED_ZERO_STAGE=str(stage))
    assert zero_settings() == ZeroSettings(
        stage=stage, offloads_optimizer=False, offloads_weights=False
    )
    given(DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE="cpu", DEEPSPEED_OFFLOAD_PARAM_DEVICE="cpu")
    assert zero_settings() == ZeroSettings(
        stage=stage, offloads_optimizer=True, offloads_weights=True
    )


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("DEEPSPEED_ZERO_STAGE", "0", r"zero_stage=0 .* stage 2 or 3.*ddp\.yaml"),
        ("DEEPSPEED_ZERO_STAGE", "1", r"zero_stage=1 .* stage 2 or 3"),
        ("DEEPSPEED_CONFIG_FILE", "ds.json", r"deepspeed_config_file=ds\.json .* fields"),
        ("GRADIENT_ACCUMULATION_STEPS", "4", r"steps=4 .* optim\.tokens_per_micro_batch"),
        ("GRADIENT_CLIPPING", "1.0", r"gradient_clipping=1\.0 .* optim\.grad_clip"),
        ("DEEPSPEED_ZERO3_INIT", "true", r"zero3_init_flag=true .* use false"),
        ("DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE", "nvme", r"offload_optimizer_device=nvme .* cpu"),
        ("DEEPSPEED_OFFLOAD_PARAM_DEVICE", "nvme", r"offload_param_device=nvme .* cpu or none"),
    ],
)
def test_what_is_not_supported_is_refused_with_the_way_out(given, variable, value, message):
    given(**{variable: value})
    with pytest.raises(ConfigError, match=message):
        zero_settings()


def test_a_missing_deepspeed_is_said_with_the_command_that_installs_it(given, monkeypatch):
    given(DEEPSPEED_ZERO_STAGE="2")
    monkeypatch.setitem(sys.modules, "deepspeed", None)
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    monkeypatch.setenv("DEEPSPEED_LOG_LEVEL", "error")
    with pytest.raises(ConfigError, match=r'pip install -e "\.\[deepspeed\]"'):
        Ranks()


@pytest.mark.parametrize(
    ("given_precision", "dtype", "agrees"),
    [
        ("no", "float32", True),
        ("no", "bfloat16", True),
        ("bf16", "bfloat16", True),
        ("bf16", "float32", False),
        ("fp16", "float32", False),
        ("fp8", "bfloat16", False),
    ],
)
def test_the_recipe_alone_decides_the_precision(given, given_precision, dtype, agrees):
    given(MIXED_PRECISION=given_precision)
    if agrees:
        check_precision(dtype)
        return
    with pytest.raises(ConfigError, match=rf"mixed_precision={given_precision} .*dtype={dtype}"):
        check_precision(dtype)


@pytest.mark.parametrize("name", ["zero2", "zero3", "multinode"])
def test_a_shipped_file_for_deepspeed_asks_for_nothing_that_is_refused(given, name):
    file = ROOT / "recipes" / "accelerate" / f"{name}.yaml"
    fields = yaml.safe_load(file.read_text(encoding="utf-8"))
    assert fields["distributed_type"] == "DEEPSPEED"
    given(MIXED_PRECISION=fields["mixed_precision"])
    of_deepspeed = fields["deepspeed_config"]
    of_deepspeed.pop("deepspeed_multinode_launcher", None)
    given(GRADIENT_ACCUMULATION_STEPS=str(of_deepspeed.pop("gradient_accumulation_steps")))
    of_deepspeed["zero3_init"] = of_deepspeed.pop("zero3_init_flag", False)
    given(**{f"DEEPSPEED_{key.upper()}": str(value) for key, value in of_deepspeed.items()})
    check_precision("float32")
    assert zero_settings().stage == (3 if name == "zero3" else 2)


def test_a_reference_whose_moves_bfloat16_would_lose_is_refused(tiny_llama, monkeypatch):
    settings = ZeroSettings(stage=3, offloads_optimizer=False, offloads_weights=False)
    monkeypatch.setattr(Ranks, "zero", property(lambda _: settings))
    engines = load_module(Path(__file__).with_name("engines.py"))
    with pytest.raises(ConfigError, match=r"reference\.mode=ema .* use recipes/.*zero2\.yaml"):
        engines.engine_for(tiny_llama.bfloat16(), kl={"reference": {"mode": "ema"}})
