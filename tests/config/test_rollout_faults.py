"""What the rollout section may not say, and what it means where it says nothing."""

import pytest

from rl_llm.config import VllmSection, parse_recipe
from rl_llm.errors import ConfigError

URLS = {"servers": {"urls": ["http://a:8000", "https://b:8000"]}}


def parse(*, steps=10, kl=None, **rollout):
    tree = {
        "run": {"name": "a", "steps": steps},
        "model": {"path": "somewhere"},
        "data": {"train": [{"use": "arithmetic"}]},
        "rewards": [{"use": "exact_answer"}],
        "optim": {"epochs": 2},
        "kl": kl or {},
        "rollout": rollout,
    }
    return parse_recipe(tree, where="test").rollout


def faults_of(**settings):
    with pytest.raises(ConfigError) as caught:
        parse(**settings)
    return str(caught.value).removeprefix("test: ").split("\n  ")


def test_nothing_is_no_engine_and_is_named_as_it_is_written():
    (fault,) = faults_of(engine=None)
    assert fault.startswith("rollout.engine=null: input should be 'auto', 'transformers', ")


def test_servers_must_be_named():
    assert parse(engine="vllm_server", **URLS).servers.urls == URLS["servers"]["urls"]
    (fault,) = faults_of(engine="vllm_server")
    assert fault.startswith(
        "rollout.engine='vllm_server' with rollout.servers.urls=[]: there is no server to ask"
    )


def test_a_server_is_named_once_however_it_is_written():
    urls = ["http://a:8000", "http://b:8000", "a:8000/v1", "http://a:8000/"]
    (fault,) = faults_of(engine="vllm_server", servers={"urls": urls})
    assert fault.startswith("rollout.servers.urls names 'http://a:8000' 3 times")
    two = ["http://a:8000", "https://a:8000"]
    assert parse(engine="vllm_server", servers={"urls": two}).servers.urls == two


@pytest.mark.parametrize("engine", ["vllm_server", "transformers"])
@pytest.mark.parametrize("url", ["http://me:secret@a:8000", "http://a:8000?token=secret"])
def test_a_secret_in_an_address_is_refused_and_not_repeated(engine, url):
    (fault,) = faults_of(engine=engine, servers={"urls": [url]})
    assert fault.startswith("rollout.servers.urls: ") and "secret" not in fault


def test_what_is_no_address_is_a_fault_of_the_recipe():
    (fault,) = faults_of(engine="vllm_server", servers={"urls": ["ftp://a:8000"]})
    assert fault.startswith("rollout.servers.urls: 'ftp://a:8000' is no address of a server")


@pytest.mark.parametrize("engine", ["vllm_server", "transformers"])
@pytest.mark.parametrize("name", ["sk-secret", "0secret", "secret\n", "a secret", ""])
def test_a_key_in_place_of_its_variables_name_is_refused_and_not_repeated(engine, name):
    servers = {"urls": ["http://a:8000"], "api_key_env": name}
    (fault,) = faults_of(engine=engine, servers=servers)
    assert fault.startswith("rollout.servers.api_key_env is no name of an environment variable")
    assert "secret" not in fault


def test_any_variable_may_hold_the_key():
    servers = {"urls": ["http://a:8000"], "api_key_env": "_our_Key2"}
    assert parse(engine="vllm_server", servers=servers).servers.api_key_env == "_our_Key2"


def test_rows_at_once_are_no_setting_of_servers():
    assert parse(engine="vllm", max_batch_rows=64).max_batch_rows == 64
    (fault,) = faults_of(engine="vllm_server", max_batch_rows=64, **URLS)
    assert fault.startswith("rollout.max_batch_rows=64 with rollout.engine='vllm_server': ")
    assert "or write 512" in fault


@pytest.mark.parametrize("engine", ["auto", "transformers", "vllm"])
def test_settings_of_servers_that_no_engine_reads_are_refused(engine):
    servers = {**URLS["servers"], "max_in_flight": 3}
    assert faults_of(engine=engine, servers=servers) == [
        f"rollout.servers.{key} with rollout.engine={engine!r}: only the engine vllm_server reads "
        f"it; leave it out, or write {usual}, its default, or use rollout.engine vllm_server"
        for key, usual in (
            ("urls=['http://a:8000', 'https://b:8000']", "[]"),
            ("max_in_flight=3", "64"),
        )
    ]


@pytest.mark.parametrize("engine", ["transformers", "vllm_server"])
def test_settings_of_vllm_that_no_engine_reads_are_refused(engine):
    servers = URLS if engine == "vllm_server" else {}
    assert faults_of(engine=engine, vllm={"publish": "merged", "sleep": False}, **servers) == [
        f"rollout.vllm.{key} with rollout.engine={engine!r}: only the engine vllm reads it; leave "
        f"it out, or write {usual}, its default, or use rollout.engine vllm"
        for key, usual in (("publish='merged'", "null"), ("sleep=False", "true"))
    ]


@pytest.mark.parametrize("engine", ["vllm", "auto"])
def test_settings_of_vllm_stand_where_it_may_be_in_use(engine):
    assert parse(engine=engine, vllm={"kv_cache_gib": 1.0}).vllm.kv_cache_gib == 1.0


def test_a_default_that_is_written_out_is_no_setting_of_an_engine():
    assert parse(engine="transformers", vllm=VllmSection().model_dump(), servers={"urls": []})


@pytest.mark.parametrize(("engine", "kept"), [("vllm", 1.0), ("transformers", 2.0)])
def test_what_auto_stands_for_makes_a_recipe_that_can_be_read_again(engine, kept):
    chosen = parse(engine="auto", vllm={"kv_cache_gib": 1.0}).with_engine(engine)
    assert (chosen.engine, chosen.vllm.kv_cache_gib) == (engine, kept)
    assert parse(**chosen.model_dump()) == chosen


def test_weights_that_no_step_has_moved_are_not_all_that_draws():
    assert parse(steps=3, max_staleness=2).max_staleness == 2
    (fault,) = faults_of(steps=3, max_staleness=3)
    assert fault.startswith("rollout.max_staleness=3 with run.steps=3: ")
    assert "use at most 2" in fault


STOPPED = [
    ({"stop_at_old": 0.5}, "kl.stop_at_old=0.5"),
    ({"controller": {"name": "ppo_penalty"}, "against": "old"}, "kl.controller='ppo_penalty'"),
]


@pytest.mark.parametrize(("kl", "named"), STOPPED)
def test_a_divergence_that_nothing_measures_steers_nothing(kl, named):
    none = {"name": "none"}
    assert parse(kl=kl, max_staleness=1)
    assert parse(kl=kl, correction=none)
    (fault,) = faults_of(kl=kl, max_staleness=1, correction=none)
    assert fault.startswith(f"{named} with rollout.max_staleness=1 and rollout.correction='none'")
