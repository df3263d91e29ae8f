"""Rollouts from real vLLM servers: what they draw, and what happens when one dies."""

import asyncio
import importlib.util
from functools import partial
from pathlib import Path

import pytest
import torch

from rl_llm.cli.engines import find_vllm
from rl_llm.config.api_key import ApiKey
from rl_llm.config.rollout import ServersSection
from rl_llm.config.sections import LoraSection
from rl_llm.errors import ConfigError
from rl_llm.plugins import shipped_folder
from rl_llm.policy import add_lora, load_base, load_tokenizer, stop_token_ids
from rl_llm.records import Problem, Request, Sampling, content_key
from rl_llm.rollout import server_client
from rl_llm.rollout.hf_engine import TransformersEngine
from rl_llm.rollout.prompts import PromptEncoder
from rl_llm.rollout.server_client import ServerClient, ServerRefusal
from rl_llm.rollout.vllm_servers import ServersEngine, serve_command

pytestmark = [
    pytest.mark.slow,
    # Beside the tests of the other vLLM: too many of them at once wait for each other.
    pytest.mark.xdist_group("vllm"),
    pytest.mark.skipif(find_vllm() is None, reason="vLLM is not installed"),
]

spec = importlib.util.spec_from_file_location(
    "stock_server", Path(__file__).with_name("stock_server.py")
)
stock = importlib.util.module_from_spec(spec)
spec.loader.exec_module(stock)

MODEL = str(shipped_folder("data") / "models" / "carry-adder")
ROOM = 128
KEY = "sk-of-the-test"


@pytest.fixture(scope="module")
def servers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("servers")
    with stock.serving(MODEL, folder, rank=16, max_model_len=ROOM, api_key=KEY) as started:
        yield started


@pytest.fixture(scope="module")
def base():
    return load_base(MODEL, dtype="float32")


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(MODEL)


@pytest.fixture(scope="module")
def in_process(base, tokenizer):
    """The transformers engine, built before an adapter is put on the base."""
    stop_ids = stop_token_ids(base, tokenizer)
    return TransformersEngine(base, PromptEncoder(tokenizer), stop_ids=stop_ids, max_batch_rows=512)


@pytest.fixture
def connect(servers, base, tokenizer, tmp_path):
    engines = []

    def make():
        engines.append(
            ServersEngine(
                PromptEncoder(tokenizer),
                section=ServersSection(urls=[server.url for server in servers]),
                stop_ids=stop_token_ids(base, tokenizer),
                adapter_dir=tmp_path / "shared",
                api_key=KEY,
                max_model_len=ROOM,
                seed=0,
                command=serve_command(MODEL, rank=8, max_model_len=ROOM),
            )
        )
        return engines[-1]

    yield make
    for engine in engines:
        engine.close()


@pytest.fixture(scope="module")
def write_adapter(in_process, base, tmp_path_factory):
    """Return a function that writes a random adapter of a rank."""

    def write(rank):
        folder = tmp_path_factory.mktemp("adapter")
        adapted = add_lora(base, LoraSection(rank=rank, alpha=2.0 * rank), seed=1)
        generator = torch.Generator().manual_seed(rank)
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.1, generator=generator)
        adapted.save_pretrained(str(folder), save_embedding_layers=False)
        adapted.unload()
        return folder

    return write


def asks(prompts, *, completions, temperature):
    return [
        Request(
            problem=Problem(key=content_key(prompt, ""), prompt=prompt, answer=""),
            num_completions=completions,
            sampling=Sampling(temperature=temperature, max_new_tokens=96),
            stream_key=i,
        )
        for i, prompt in enumerate(prompts)
    ]


def texts(groups):
    return {group.problem.prompt: group.completions[0].text for group in groups}


def mean_gap_nats(model, groups, *, temperature):
    """Return the mean of |the engine's logprob - the model's own| over all tokens."""
    gaps = []
    for group in groups:
        for completion in group.completions:
            ids = torch.tensor([group.prompt_ids + completion.token_ids])
            with torch.no_grad():
                logits = model(ids).logits[0, len(group.prompt_ids) - 1 : -1]
            own = (logits / temperature).log_softmax(-1)
            own = own.gather(1, ids[0, len(group.prompt_ids) :, None]).squeeze(1)
            gaps.append((own - torch.tensor(completion.logprobs)).abs())
    return torch.cat(gaps).mean().item()


def test_servers_draw_what_the_adapted_model_draws(connect, in_process, base, write_adapter):
    prompts = [f"{n}+{7 * n + 5}=" for n in range(11, 131, 10)]
    greedy = asks(prompts, completions=1, temperature=0.0)
    engine, adapter = connect(), write_adapter(8)
    before = texts(engine.complete(greedy))
    assert before == texts(in_process.complete(greedy))
    for loaded in (engine, in_process):
        loaded.load_weights(adapter, version=5)
    after = texts(engine.complete(greedy))
    assert after == texts(in_process.complete(greedy)) != before

    for temperature in (1.0, 0.6):
        groups = list(engine.complete(asks(prompts, completions=4, temperature=temperature)))
        model = in_process._model
        assert mean_gap_nats(model, groups, temperature=temperature) < 0.01
        reasons = {
            (c.finish_reason, c.token_ids[-1] == 1, c.policy_version)
            for group in groups
            for c in group.completions
        }
        assert reasons <= {("stop", True, 5), ("length", False, 5)}
        assert any(len({c.token_ids for c in group.completions}) > 1 for group in groups)


def test_a_rank_that_a_server_does_not_take_is_refused_in_its_words(connect, write_adapter):
    engine, too_large = connect(), write_adapter(32)
    engine.try_adapter(write_adapter(8))
    for give in (engine.try_adapter, partial(engine.load_weights, version=1)):
        with pytest.raises(ConfigError, match=r"LoRA rank 32 is greater than max_lora_rank 16"):
            give(too_large)


def test_a_folder_that_a_server_does_not_see_is_refused_in_its_words(servers, tmp_path):
    async def load():
        key = ApiKey(KEY, variable="VLLM_API_KEY", option="rollout.servers.api_key_env")
        async with server_client.connect(key) as http:
            client = ServerClient(servers[0].url, http, key, timeout_s=60.0)
            await client.load("unseen", tmp_path / "unseen")

    with pytest.raises(ServerRefusal, match="unseen failed: No adapter found"):
        asyncio.run(load())


def test_a_killed_server_loses_nothing_and_takes_work_when_it_is_back(
    connect, servers, write_adapter
):
    engine, dying = connect(), servers[0]
    engine.load_weights(write_adapter(8), version=1)
    prompts = [f"{n}+{n}=" for n in range(1000, 1096)]
    requests = asks(prompts, completions=8, temperature=1.0)
    groups = engine.complete(requests)
    answered = [next(groups)]
    dying.kill()
    answered += list(groups)
    assert sorted(group.problem.prompt for group in answered) == prompts
    assert all(len(group.completions) == 8 for group in answered)
    (lost,) = engine.take_messages()
    assert f"{dying.url} is lost" in lost and "are asked of others; 1 of 2 servers" in lost
    assert KEY not in lost

    dying.start()
    dying.wait()
    said = dying.count_in_log("POST /v1/load_lora_adapter")
    stock.wait_until(lambda: dying.count_in_log("POST /v1/load_lora_adapter") > said)
    asked = dying.count_in_log("POST /v1/completions")
    again = list(engine.complete(requests))
    assert sorted(group.problem.prompt for group in again) == prompts
    assert dying.count_in_log("POST /v1/completions") >= asked + 10
    assert f"{dying.url} is well again" in engine.take_messages()[0]


def test_a_server_whose_logprobs_leave_the_temperature_out_is_found_out(connect, servers):
    raw = servers[1]
    raw.kill()
    raw.start(logprobs_mode="raw_logprobs")
    raw.wait()
    with pytest.raises(ConfigError, match="1 of 2 servers") as caught:
        connect()
    assert f"{raw.url}: its logprobs leave the temperature out" in str(caught.value)
