"""What is looked at of an adapter before a model is loaded for it."""

import json

import pytest
import torch
from safetensors.torch import save_file

from rl_llm.cli.adapter_files import base_of, find_adapter
from rl_llm.errors import InputError


@pytest.fixture
def adapter(tmp_path):
    """The folder of an adapter of one matrix, made for the model `m`."""
    folder = tmp_path / "step-000004" / "adapter"
    folder.mkdir(parents=True)
    config = json.dumps({"base_model_name_or_path": "m"})
    (folder / "adapter_config.json").write_text(config, encoding="utf-8")
    save_file({"a": torch.zeros(8, 8)}, folder / "adapter_model.safetensors")
    return folder


def test_a_folder_is_an_adapter_or_holds_one_as_a_checkpoint_does(adapter):
    assert find_adapter(adapter) == find_adapter(adapter.parent) == adapter
    assert find_adapter(adapter.parent.parent) is None


@pytest.mark.parametrize(("said", "base"), [("m", "m"), (None, None), ("", None)])
def test_the_base_is_the_model_that_the_adapter_names(adapter, said, base):
    config = json.dumps({"base_model_name_or_path": said})
    (adapter / "adapter_config.json").write_text(config, encoding="utf-8")
    assert base_of(adapter) == base


def cut(adapter):
    with (adapter / "adapter_model.safetensors").open("r+b") as file:
        file.truncate(100)


def shut(adapter):
    """Let it be a folder: opening it fails though it is there, as where reading is forbidden."""
    (adapter / "adapter_model.safetensors").unlink()
    (adapter / "adapter_model.safetensors").mkdir()


def drop(adapter):
    (adapter / "adapter_model.safetensors").unlink()


def scribble(adapter):
    (adapter / "adapter_config.json").write_text("[]", encoding="utf-8")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (cut, r"model.safetensors cannot be read \(.*(header|metadata).*\); put it back"),
        (shut, r"model.safetensors cannot be read \(Is a directory\); put it back"),
        (drop, r"model.safetensors cannot be read \(No such file or directory\); put it back"),
        (scribble, r"config.json cannot be read \(it is not a JSON object\); put it back"),
    ],
)
def test_what_cannot_be_read_is_refused_by_name(adapter, damage, said):
    damage(adapter)
    with pytest.raises(InputError, match=rf"^{adapter}/adapter_{said}"):
        base_of(adapter)
