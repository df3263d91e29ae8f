"""Weights on their way to servers, some of which are busy, refuse them or are just coming back."""

import importlib.util
import resource
import threading
import time
from pathlib import Path

import pytest

from rl_llm.errors import ConfigError, EngineLost, StorageError

spec = importlib.util.spec_from_file_location(
    "fake_server", Path(__file__).with_name("fake_server.py")
)
fake = importlib.util.module_from_spec(spec)
spec.loader.exec_module(fake)
start_server, connect = fake.start_server, fake.connect
adapter_of, asks, prompts_of = fake.adapter_of, fake.asks, fake.prompts_of


@pytest.fixture
def no_room():
    """A function that makes the system refuse files of more than 3 bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (3, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


LOAD, UNLOAD = "/v1/load_lora_adapter", "/v1/unload_lora_adapter"


@pytest.fixture
def forgetting(start_server, connect, adapter_of):
    """An engine, the server that it is just taking back, which is slow to forget the adapter before
    and hangs up on completions, a good server, and the event that lets the slow one go on."""
    away, good = start_server(), start_server()
    engine = connect(away, good)
    engine.load_weights(adapter_of("one"), version=1)
    away.stop()
    engine.load_weights(adapter_of("two"), version=2)
    begun, release = threading.Event(), threading.Event()
    away.scripts[UNLOAD] = lambda body: begun.set() or (release.wait(4) and None)
    away.script = lambda body: "hang up"
    away.start()
    assert begun.wait(20)
    yield engine, away, good, release
    release.set()


def test_a_server_that_missed_a_publication_gets_the_newest_adapter(
    start_server, connect, adapter_of
):
    away, good = start_server(), start_server()
    engine = connect(away, good)
    engine.load_weights(adapter_of("one"), version=1)
    away.stop()
    engine.load_weights(adapter_of("two"), version=2)
    away.start()
    said = engine.take_messages()
    fake.wait_until(lambda: said.extend(engine.take_messages()) or "well again after" in said[-1])
    assert [name[-2:] for name in away.adapters] == ["v2"]
    list(engine.complete(asks(*"abcdefgh")))
    assert {body["model"][-2:] for body in away.bodies()} == {"v2"}


def test_a_server_takes_no_work_before_it_has_forgotten_what_is_stale(forgetting):
    """So it cannot be lost a second time while its recovery goes on."""
    engine, away, good, release = forgetting
    assert prompts_of(engine.complete(asks(*"abcd"))) == list("abcd")
    assert (len(away.bodies()), len(good.bodies())) == (0, 4)
    assert [away.url in said and "is lost" in said for said in engine.take_messages()] == [True]
    release.set()
    said = []
    fake.wait_until(lambda: said.extend(engine.take_messages()) or said)
    assert [f"{away.url} is well again" in line for line in said] == [True]


def test_an_adapter_published_while_a_server_forgets_is_given_to_it_too(forgetting, adapter_of):
    engine, away, _, release = forgetting
    engine.load_weights(adapter_of("three"), version=3)
    engine.take_messages()
    assert [name[-2:] for name in away.adapters] == ["v2"]
    release.set()
    fake.wait_until(engine.take_messages)
    assert [name[-2:] for name in away.adapters] == ["v3"]


def test_a_publication_takes_the_place_of_the_one_before(
    start_server, connect, adapter_of, tmp_path
):
    servers = [start_server(), start_server()]
    engine = connect(*servers)
    engine.load_weights(adapter_of("one"), version=1)
    (first,) = (tmp_path / "shared").iterdir()
    engine.load_weights(adapter_of("two"), version=2)
    (second,) = (tmp_path / "shared").iterdir()
    assert first.name.endswith("-v1") and second.name.endswith("-v2")
    for server in servers:
        assert server.adapters == {second.name: second}
    (group,) = engine.complete(asks("a"))
    assert {c.policy_version for c in group.completions} == {2}
    engine.close()
    assert [server.adapters for server in servers] == [{}, {}]
    assert not (tmp_path / "shared").exists()


def test_an_adapter_that_is_published_again_stays_where_servers_read_it(
    start_server, connect, adapter_of, tmp_path
):
    server, source = start_server(), adapter_of("one")
    engine = connect(server)
    for _ in range(2):
        engine.load_weights(source, version=1)
    (published,) = (tmp_path / "shared").iterdir()
    assert server.adapters == {published.name: published}
    server.stop()
    server.start()
    assert prompts_of(engine.complete(asks("a"))) == ["a"]


def test_weights_wait_for_the_requests_that_use_the_ones_before(start_server, connect, adapter_of):
    server = start_server()
    engine = connect(server, max_in_flight=4)
    engine.load_weights(adapter_of("one"), version=1)
    server.script = lambda body: time.sleep(0.05)
    groups = engine.complete(asks(*"abcd"))
    first = next(groups)
    engine.load_weights(adapter_of("two"), version=2)
    versions = {c.policy_version for group in (first, *groups) for c in group.completions}
    assert versions == {1}
    assert [body["model"][-2:] for body in server.bodies()] == ["v1"] * 4
    assert [name[-2:] for name in server.adapters] == ["v2"]


def test_ranks_share_an_adapter_and_runs_do_not(start_server, connect, adapter_of):
    server, adapter = start_server(), adapter_of("one")
    ranks = [connect(server, seed=5), connect(server, seed=5)]
    for rank in ranks:
        rank.load_weights(adapter, version=1)
    assert len(server.adapters) == 1
    connect(server, seed=6).load_weights(adapter, version=1)
    assert len(server.adapters) == 2


@pytest.mark.parametrize(
    ("setting", "words", "way_out"),
    [
        ({"max_rank": 4}, "rank 8 is greater than max_lora_rank 4", "--max-lora-rank 16"),
        ({"takes_adapters": False}, "Not Found", "VLLM_ALLOW_RUNTIME_LORA_UPDATING=True"),
        ({"sees_folders": False}, "No adapter found", "rollout.servers.adapter_dir"),
    ],
)
def test_a_refused_adapter_is_an_error_with_the_servers_words_and_the_way_out(
    start_server, connect, adapter_of, setting, words, way_out
):
    good, bad = start_server(), start_server()
    engine = connect(good, bad)
    vars(bad).update(setting)
    with pytest.raises(ConfigError) as caught:
        engine.load_weights(adapter_of("one"), version=1)
    said = str(caught.value)
    assert bad.url in said and good.url not in said
    assert words in said and way_out in said and fake.COMMAND in said


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_a_server_that_is_busy_at_a_publication_is_asked_again(
    start_server, connect, adapter_of, status
):
    server = start_server()
    engine, answers = connect(server), [fake.error(status, "busy"), None]
    server.scripts[LOAD] = lambda body: answers.pop(0)
    engine.load_weights(adapter_of("one"), version=1)
    assert len(server.adapters) == 1
    assert engine.take_messages() == []


def test_a_server_that_stays_busy_at_a_publication_is_lost_until_it_takes_the_adapter(
    start_server, connect, adapter_of
):
    busy, good = start_server(), start_server()
    engine = connect(busy, good)
    busy.scripts[LOAD] = lambda body: fake.error(503, "busy")
    engine.load_weights(adapter_of("one"), version=1)
    (lost,) = engine.take_messages()
    assert f"{busy.url} is lost: HTTP 503: busy" in lost
    busy.scripts.clear()
    fake.wait_until(engine.take_messages)
    assert busy.adapters.keys() == good.adapters.keys()


def test_a_server_that_refuses_a_later_adapter_is_lost_while_others_take_it(
    start_server, connect, adapter_of
):
    bad, good = start_server(), start_server()
    engine = connect(bad, good)
    engine.load_weights(adapter_of("one"), version=1)
    bad.max_rank = 4
    engine.load_weights(adapter_of("two"), version=2)
    (lost,) = engine.take_messages()
    assert f"{bad.url} is lost: HTTP 500: LoRA rank 8 is greater than max_lora_rank 4" in lost
    groups = list(engine.complete(asks(*"abcd")))
    assert {c.policy_version for group in groups for c in group.completions} == {2}
    assert bad.bodies() == []


@pytest.mark.parametrize("is_other_busy", [False, True])
def test_a_later_adapter_that_no_server_takes_ends_the_run_behind_a_checkpoint(
    start_server, connect, adapter_of, is_other_busy
):
    one, other = start_server(), start_server()
    engine = connect(one, other)
    engine.load_weights(adapter_of("one"), version=1)
    one.max_rank = other.max_rank = 4
    if is_other_busy:
        other.scripts[LOAD] = lambda body: fake.error(503, "busy")
    with pytest.raises(EngineLost) as caught:
        engine.load_weights(adapter_of("two"), version=2)
    said = str(caught.value)
    assert f"{one.url}: HTTP 500: LoRA rank 8 is greater than max_lora_rank 4" in said
    assert f"{other.url}: HTTP 503: busy" in said or not is_other_busy
    assert "adapter of step 2" in said and "with the --max-lora-rank below" in said
    assert said.endswith(f":\n  {fake.COMMAND}")


def test_a_publication_without_room_is_no_fault_of_the_recipe_and_leaves_nothing_half_written(
    start_server, connect, adapter_of, no_room, tmp_path
):
    engine, one, two = connect(start_server()), adapter_of("one"), adapter_of("two")
    engine.load_weights(one, version=1)
    no_room()
    with pytest.raises(StorageError) as caught:
        engine.load_weights(two, version=2)
    assert str(caught.value) == (
        f"rollout.servers.adapter_dir: '{tmp_path / 'shared'}' cannot be written to: File too "
        "large; make room there, or make it writable"
    )
    (left,) = (tmp_path / "shared").iterdir()
    assert left.name.endswith("-v1")


def test_a_trial_without_room_is_a_fault_of_the_recipe(start_server, connect, adapter_of, no_room):
    engine, one = connect(start_server()), adapter_of("one")
    no_room()
    with pytest.raises(ConfigError, match=r"adapter_dir: .*: File too large; name a folder"):
        engine.try_adapter(one)
