"""The shipped model behind a rollout engine."""

from pathlib import Path

import pytest
import torch
import yaml

from rl_llm.cli.main import main
from rl_llm.config.sections import LoraSection
from rl_llm.plugins import shipped_folder
from rl_llm.policy import add_lora, load_base, load_tokenizer, stop_token_ids
from rl_llm.records import Problem, Request, Sampling, content_key
from rl_llm.rollout.hf_engine import TransformersEngine
from rl_llm.rollout.prompts import PromptEncoder

MODEL = str(shipped_folder("data") / "models" / "carry-adder")


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(MODEL)


@pytest.fixture
def base():
    return load_base(MODEL, dtype="float32")


@pytest.fixture
def make_engine(tokenizer):
    def make(base, *, max_batch_rows=512):
        return TransformersEngine(
            base,
            PromptEncoder(tokenizer),
            stop_ids=stop_token_ids(base, tokenizer),
            max_batch_rows=max_batch_rows,
        )

    return make


@pytest.fixture
def ask():
    def request(prompt, *, completions=4, temperature=1.0, max_new_tokens=96, stream_key=11):
        return Request(
            problem=Problem(key=content_key(prompt, ""), prompt=prompt, answer=""),
            num_completions=completions,
            sampling=Sampling(temperature=temperature, max_new_tokens=max_new_tokens),
            stream_key=stream_key,
        )

    return request


@pytest.fixture
def adapter_dir(tmp_path) -> Path:
    return tmp_path / "adapter"


@pytest.fixture(scope="session")
def trained_adapter(tmp_path_factory) -> Path:
    """The adapter of three real training steps, with a rate that moves the model visibly."""
    folder = tmp_path_factory.mktemp("trained")
    recipe = {
        "run": {"name": "three", "steps": 3, "output_dir": str(folder)},
        "model": {"path": MODEL},
        "lora": {"rank": 8, "alpha": 16.0},
        "data": {
            "train": [
                {"use": "arithmetic", "levels": [4, 6], "size": 60, "split": "train", "seed": 1}
            ],
            "max_prompt_tokens": 32,
        },
        "rewards": [{"use": "exact_answer"}],
        "rollout": {
            "engine": "transformers",
            "problems_per_step": 8,
            "group_size": 4,
            "max_new_tokens": 96,
        },
        "kl": {"controller": {"name": "constant", "beta": 0.0}},
        "optim": {"lr": 1e-2, "tokens_per_micro_batch": 2048},
    }
    file = folder / "three.yaml"
    file.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    assert main(["train", str(file)]) == 0
    return folder / "three" / "adapter"


@pytest.fixture(scope="session")
def write_adapter():
    """Write an adapter whose B matrices are normal with a deviation; 0 changes nothing."""

    def write(folder: Path, *, deviation: float, seed: int = 2) -> Path:
        adapted = add_lora(
            load_base(MODEL, dtype="float32"), LoraSection(rank=8, alpha=16.0), seed=1
        )
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name and deviation:
                torch.nn.init.normal_(parameter, std=deviation, generator=generator)
        adapted.save_pretrained(str(folder), save_embedding_layers=False)
        return folder

    return write
