"""The shipped model behind a rollout engine."""

from pathlib import Path

import pytest

from rl_llm.plugins import shipped_folder
from rl_llm.policy import load_base, load_tokenizer, stop_token_ids
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
