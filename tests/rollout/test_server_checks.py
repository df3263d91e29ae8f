"""What is found out about servers before a run starts, and what is never said: the key."""

import importlib.util
import logging
import traceback
from pathlib import Path

import pytest

from rl_llm.cli.main import main
from rl_llm.config import load_recipe
from rl_llm.errors import ConfigError, RlLlmError
from rl_llm.records import Problem, Request, Sampling
from rl_llm.rollout.server_checks import serve_command

spec = importlib.util.spec_from_file_location(
    "fake_server", Path(__file__).with_name("fake_server.py")
)
fake = importlib.util.module_from_spec(spec)
spec.loader.exec_module(fake)
start_server, connect, adapter_of = fake.start_server, fake.connect, fake.adapter_of

ROOT = Path(__file__).parents[2]
KEY = "sk-quite-secret"


def ask(prompt):
    problem = Problem(key=f"key-{prompt}", prompt=prompt, answer="")
    sampling = Sampling(temperature=1.0, max_new_tokens=8)
    return Request(problem=problem, num_completions=2, sampling=sampling, stream_key=0)


def closed_url(start_server):
    server = start_server()
    server.stop()
    server.stop = lambda: None
    return server.url


def test_no_address_at_all_is_an_error_with_the_command_that_starts_a_server(connect):
    with pytest.raises(ConfigError, match=r"urls is empty.*\n.*vllm serve my/model"):
        connect()


def test_one_message_says_what_is_wrong_with_which_server(start_server, connect):
    good, short = start_server(), start_server(max_model_len=63)
    raw, gone = start_server(logprobs_mode="raw"), closed_url(start_server)
    with pytest.raises(ConfigError) as caught:
        connect(good.url, short.url, raw.url, gone)
    first, *lines = str(caught.value).splitlines()
    assert "3 of 4 servers cannot generate for this run" in first
    said = dict(line.strip().split(": ", 1) for line in lines[:3])
    assert said.keys() == {short.url, raw.url, gone}
    assert "at most 63 tokens" in said[short.url] and "--max-model-len 64" in said[short.url]
    assert "--logprobs-mode processed_logprobs" in said[raw.url]
    assert "ConnectError" in said[gone]
    assert "vllm serve my/model --enable-lora" in lines[-1]


@pytest.mark.parametrize(
    "models",
    [
        {"hello": "world"},
        *({"data": data} for data in ([], None, ["base"], {"id": "base"}, [{"object": "model"}])),
        {"data": [{"id": "base", "max_model_len": "long"}]},
    ],
)
def test_what_answers_but_is_no_vllm_server_is_named(start_server, connect, monkeypatch, models):
    server = start_server()
    monkeypatch.setattr(server, "_models", lambda: (200, models))
    with pytest.raises(ConfigError, match=r"names no model; is it a vLLM server\?"):
        connect(server.url)


@pytest.mark.parametrize("status", [200, 404])
def test_a_page_is_not_repeated(start_server, connect, monkeypatch, status):
    server = start_server()
    page = "<!DOCTYPE html><html><body>Welcome</body></html>"
    monkeypatch.setattr(server, "_models", lambda: (status, page))
    with pytest.raises(ConfigError, match=r"not( a)? JSON.*; is it a vLLM server\?") as caught:
        connect(server.url)
    assert "Welcome" not in str(caught.value)


def test_https_where_a_server_speaks_http_is_an_error_with_the_way_out(start_server, connect):
    url = start_server().url.replace("http://", "https://")
    with pytest.raises(ConfigError, match=r"does not speak https: write http:// in rollout"):
        connect(url)


def test_one_server_under_two_names_is_refused(start_server, connect):
    url = start_server().url
    named = url.replace("127.0.0.1", "localhost")
    with pytest.raises(ConfigError) as caught:
        connect(url, named)
    assert f"rollout.servers.urls: {url} and {named} are one server, at 127.0.0.1" in str(
        caught.value
    )
    connect(url, start_server().url)


def test_a_run_starts_without_a_server_that_does_not_answer_yet(start_server, connect):
    good, late = start_server(), start_server()
    late.stop()
    engine = connect(good.url, late.url)
    assert f"{late.url} is lost: ConnectError" in engine.take_messages()[0]
    late.start()
    back = []
    fake.wait_until(lambda: back.extend(engine.take_messages()) or back)
    assert f"{late.url} is well again" in back[0]


def test_no_server_that_answers_is_an_error(start_server, connect):
    url = closed_url(start_server)
    with pytest.raises(ConfigError, match=r"1 of 1 servers cannot(?s:.*)ConnectError"):
        connect(url)


def test_the_key_goes_to_the_server(start_server, connect):
    server = start_server(key=KEY)
    engine = connect(server.url, api_key=f"{KEY}\n")
    assert len(list(engine.complete([ask("a")]))) == 1


def test_servers_are_asked_directly_whatever_proxy_the_environment_names(
    start_server, connect, monkeypatch
):
    monkeypatch.setenv("HTTP_PROXY", closed_url(start_server))
    monkeypatch.setenv("ALL_PROXY", closed_url(start_server))
    connect(start_server().url)


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        (None, "set the environment variable OUR_KEY to the server's API key"),
        ("other", "the key in the environment variable OUR_KEY is not the server's"),
    ],
)
def test_a_wrong_key_is_an_error_that_names_the_variable(start_server, connect, key, hint):
    server = start_server(key=KEY)
    with pytest.raises(ConfigError, match=hint):
        connect(server.url, api_key=key, api_key_env="OUR_KEY")


@pytest.mark.parametrize("key", ["two\nlines", "a b", "schl\u00fcssel"])
def test_a_key_that_no_header_can_carry_is_refused_and_not_repeated(start_server, connect, key):
    with pytest.raises(ConfigError, match="VLLM_API_KEY") as caught:
        connect(start_server().url, api_key=key)
    assert key not in str(caught.value)


def test_the_key_is_in_nothing_that_a_failing_run_says(
    start_server, connect, caplog, tmp_path, capfd
):
    """The servers repeat the header that they were sent, as a careless proxy would."""
    caplog.set_level(logging.DEBUG)
    good, bad = start_server(key=KEY), start_server(key=KEY)
    engine = connect(good.url, bad.url, api_key=KEY, max_wait_s=0.3)
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text('{"r": 8}')
    engine.load_weights(adapter, version=1)
    said = [repr(engine), *map(repr, walk(engine))]
    for answer in [
        fake.error(500, f"header: Bearer {KEY}"),
        fake.error(400, f"header: Bearer {KEY}"),
    ]:
        good.script = bad.script = lambda body, answer=answer: answer
        try:
            list(engine.complete([ask("a")]))
        except RlLlmError:
            said.append(traceback.format_exc())
    with pytest.raises(ConfigError) as refused:
        connect(good.url, api_key=f"{KEY}2")
    said += [str(refused.value), *engine.take_messages()]
    engine.close()
    said += [caplog.text, *capfd.readouterr(), *(p.read_text() for p in files_in(tmp_path))]
    assert "[API key]" in "".join(said)
    assert KEY not in "".join(said)


def test_no_part_of_the_key_is_left_where_a_servers_words_are_cut(start_server, connect):
    server = start_server(key=KEY)
    engine = connect(server, api_key=KEY)
    server.script = lambda body: fake.error(400, "x" * 492 + KEY + "y" * 100)
    with pytest.raises(RlLlmError) as caught:
        list(engine.complete([ask("a")]))
    assert "x" * 492 in str(caught.value) and "yy" not in str(caught.value)
    assert KEY[:4] not in str(caught.value)


LOAD, UNLOAD = "/v1/load_lora_adapter", "/v1/unload_lora_adapter"


def test_an_adapter_that_is_tried_is_loaded_everywhere_and_leaves_nothing(
    start_server, connect, adapter_of, tmp_path
):
    servers = [start_server(), start_server()]
    engine = connect(*servers)
    engine.try_adapter(adapter_of("zero"))
    for server in servers:
        (loaded,), (unloaded,) = server.bodies(LOAD), server.bodies(UNLOAD)
        assert loaded["lora_name"] == unloaded["lora_name"]
        assert server.adapters == {}
    assert list((tmp_path / "shared").iterdir()) == []
    engine.close()
    assert not (tmp_path / "shared").exists()


def test_a_server_that_refuses_the_adapter_that_is_tried_is_named_with_the_way_out(
    start_server, connect, adapter_of
):
    good, bad = start_server(), start_server(max_rank=4)
    with pytest.raises(ConfigError) as caught:
        connect(good, bad).try_adapter(adapter_of("zero", rank=8))
    assert str(caught.value) == (
        "vLLM servers refuse an adapter of the recipe's rank, tried before the run:\n"
        f"  {bad.url}: HTTP 500: LoRA rank 8 is greater than max_lora_rank 4.\n"
        f"start the servers with the --max-lora-rank below:\n  {fake.COMMAND}"
    )


def test_a_server_that_goes_away_while_an_adapter_is_tried_is_lost(
    start_server, connect, adapter_of
):
    good, gone = start_server(), start_server()
    engine = connect(good, gone)
    gone.scripts[LOAD] = lambda body: "hang up"
    engine.try_adapter(adapter_of("zero"))
    assert f"{gone.url} is lost: RemoteProtocolError" in engine.take_messages()[0]


@pytest.fixture
def validate(tmp_path, monkeypatch, capsys):
    """Validate the quickstart on a server; return the exit code and what was said of it."""

    def run(server, *overrides):
        monkeypatch.chdir(tmp_path)
        recipe = str(ROOT / "recipes" / "quickstart.yaml")
        served = ["rollout.engine=vllm_server", f"rollout.servers.urls=[{server.url}]"]
        return main(["validate", recipe, *served, *overrides]), capsys.readouterr().err

    return run


def test_validate_tries_an_adapter_of_the_recipes_rank_where_the_run_will_publish(
    start_server, validate, tmp_path
):
    server = start_server()
    assert validate(server) == (0, "")
    (body,) = server.bodies(LOAD)
    assert Path(body["lora_path"]).parent == tmp_path / "runs" / "quickstart" / "adapters"
    assert list(tmp_path.iterdir()) == []
    code, said = validate(server, "lora.rank=32")
    assert code == 2 and "LoRA rank 32 is greater than max_lora_rank 16" in said


def test_validate_says_that_the_folder_for_adapters_cannot_be_written(
    start_server, validate, tmp_path
):
    (tmp_path / "file").touch()
    code, said = validate(start_server(), "rollout.servers.adapter_dir=file/adapters")
    assert code == 2 and "rollout.servers.adapter_dir: 'file/adapters' cannot be written" in said


def walk(thing, seen=None):
    """Yield everything of ours that an engine holds."""
    seen = set() if seen is None else seen
    if id(thing) in seen:
        return
    seen.add(id(thing))
    yield thing
    inner = vars(thing).values() if type(thing).__module__.startswith("rl_llm") else ()
    inner = thing if isinstance(thing, (list, tuple)) else inner
    for value in inner:
        if not isinstance(value, str):
            yield from walk(value, seen)


def files_in(folder):
    return [path for path in folder.rglob("*") if path.is_file()]


def test_the_command_that_starts_a_server_takes_the_next_rank_that_vllm_knows():
    assert serve_command("my/model", rank=20, max_model_len=300, dtype="float32") == (
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING=True vllm serve my/model --enable-lora "
        "--max-lora-rank 32 --max-model-len 300 --dtype float32 --logprobs-mode processed_logprobs"
    )
    assert serve_command("my/model", rank=20, max_model_len=300, on_gpu=False) == (
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING=True python -m vllm.entrypoints.openai.api_server "
        "--model my/model --no-enable-chunked-prefill --enable-lora --max-lora-rank 32 "
        "--max-model-len 300 --logprobs-mode processed_logprobs"
    )
    asked = serve_command(
        "my/model", rank=20, max_model_len=300, urls=["a:8101", "http://b:8101/v1"]
    )
    assert asked.endswith("--max-model-len 300 --port 8101 --logprobs-mode processed_logprobs")
    for urls in (["http://a:8101", "http://b:8102"], ["http://a:8000"], ["http://a"], []):
        assert "--port" not in serve_command("my/model", rank=20, max_model_len=300, urls=urls)
    with pytest.raises(ConfigError, match=r"lora\.rank=600 is more than vLLM takes; .* 512"):
        serve_command("my/model", rank=600, max_model_len=300)


def test_the_page_has_the_command_for_the_recipe_that_it_names():
    recipe = load_recipe(ROOT / "recipes" / "qwen2.5-1.5b" / "grpo-gsm8k.yaml")
    command = serve_command(
        recipe.model.path,
        rank=recipe.lora.rank,
        max_model_len=recipe.data.max_prompt_tokens + recipe.rollout.max_new_tokens,
        dtype=recipe.model.dtype,
    )
    assert command in (ROOT / "docs" / "distributed.md").read_text(encoding="utf-8").splitlines()
