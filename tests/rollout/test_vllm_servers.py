"""Rollouts from servers that fail and come back, over real sockets."""

import asyncio
import importlib.util
import threading
import time
from collections import Counter
from concurrent.futures import CancelledError
from pathlib import Path

import httpx
import pytest

from rl_llm.errors import EngineLost, ModelError, RunError
from rl_llm.rollout.server_pool import backoff_s

spec = importlib.util.spec_from_file_location(
    "fake_server", Path(__file__).with_name("fake_server.py")
)
fake = importlib.util.module_from_spec(spec)
spec.loader.exec_module(fake)
start_server, connect = fake.start_server, fake.connect
adapter_of, asks, prompts_of = fake.adapter_of, fake.asks, fake.prompts_of


def is_asking_for(prompt):
    return lambda body: body["prompt"] == [ord(letter) for letter in prompt]


def test_a_group_is_one_request_and_holds_what_the_server_drew(start_server, connect):
    server = start_server()
    (group,) = connect(server).complete(asks("ab", completions=3))
    assert len(server.bodies()) == 1
    body = server.bodies()[0]
    assert (body["prompt"], body["n"], body["seed"], body["model"]) == ([97, 98], 3, 0, "base")
    assert (body["temperature"], body["max_tokens"]) == (1.0, 8)
    assert (body["stop_token_ids"], body["ignore_eos"]) == ([1], True)
    assert (body["top_p"], body["top_k"], body["repetition_penalty"]) == (1.0, 0, 1.0)
    assert group.prompt_ids == (97, 98)
    assert [c.token_ids for c in group.completions] == [(10, 1), (11, 1), (12, 1)]
    for completion in group.completions:
        assert completion.logprobs == (-0.5, -0.25)
        assert (completion.finish_reason, completion.policy_version) == ("stop", 0)
    assert group.completions[1].text == "\x0b\x01"


def test_an_answer_is_parsed_once(start_server, connect, monkeypatch):
    engine, parsed, parse = connect(start_server()), [], httpx.Response.json
    monkeypatch.setattr(httpx.Response, "json", lambda self: parsed.append(self) or parse(self))
    assert prompts_of(engine.complete(asks(*"abc"))) == list("abc")
    assert len(parsed) == 3


def test_no_server_is_asked_for_more_at_once_than_allowed_and_both_are_used(start_server, connect):
    servers = [start_server(), start_server()]
    for server in servers:
        server.script = lambda body, server=server: fake.wait_until(lambda: server.is_asked(8))
    groups = list(connect(*servers, max_in_flight=8).complete(asks(*"abcdefghijkl")))
    assert prompts_of(groups) == list("abcdefghijkl")
    assert [server.most_at_once for server in servers] == [8, 8]


def test_a_large_group_is_not_overtaken_by_small_ones_for_which_there_is_room(
    start_server, connect
):
    server = start_server()
    server.script = lambda body: time.sleep(0.1)
    sizes = {"a": 3, "b": 4, "c": 1}
    requests = [ask for prompt, n in sizes.items() for ask in asks(prompt, completions=n)]
    list(connect(server, max_in_flight=4).complete(requests))
    assert [body["n"] for body in server.bodies()] == [3, 4, 1]


def test_a_group_that_is_cut_into_parts_draws_the_same(start_server, connect):
    server = start_server()
    (whole,) = connect(server).complete(asks("ab", completions=7))
    (cut,) = connect(server, max_in_flight=3).complete(asks("ab", completions=7))
    assert cut == whole
    parts = [(body["seed"], body["n"]) for body in server.bodies()[1:]]
    assert sorted(parts) == [(0, 3), (3, 3), (6, 1)]


def test_greedy_completions_are_drawn_once(start_server, connect):
    server = start_server()
    (group,) = connect(server).complete(asks("ab", completions=4, temperature=0.0))
    assert [body["n"] for body in server.bodies()] == [1]
    assert [c.token_ids for c in group.completions] == [(10, 1)] * 4


def test_a_server_that_fails_and_recovers_at_once_is_not_lost(start_server, connect):
    server = start_server()
    answers = [fake.error(503, "busy"), "hang up", None]
    server.script = lambda body: answers.pop(0)
    engine = connect(server)
    assert prompts_of(engine.complete(asks("a"))) == ["a"]
    assert len(server.bodies()) == 3
    assert engine.take_messages() == []


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("hang up", "RemoteProtocolError"),
        ("garbled", "DecodingError"),
        (fake.error(500, "EngineCore died"), "EngineCore died"),
    ],
)
def test_the_work_of_a_lost_server_is_done_by_the_others_exactly_once(
    start_server, connect, fault, words
):
    bad, good = start_server(), start_server()
    engine = connect(bad, good, max_in_flight=16)
    bad.script = lambda body: fault
    groups = list(engine.complete(asks(*"abcdefghij")))
    assert prompts_of(groups) == list("abcdefghij")
    assert Counter(bytes(body["prompt"]).decode() for body in good.bodies()) == dict.fromkeys(
        "abcdefghij", 1
    )
    (lost, *_) = engine.take_messages()
    assert bad.url in lost and "lost" in lost and words in lost
    assert "4 requests of it are asked of others; 1 of 2 servers are left" in lost


def test_a_server_that_is_well_and_completes_nothing_does_not_end_a_call(start_server, connect):
    bad, good = start_server(), start_server()
    engine = connect(bad, good, max_in_flight=4)
    bad.script = lambda body: fake.error(500, "kernel fault")
    good.script = lambda body: time.sleep(0.1)
    assert prompts_of(engine.complete(asks(*"abcdefghijklmnop"))) == list("abcdefghijklmnop")
    losses = [said for said in engine.take_messages() if "is lost" in said]
    assert 2 <= len(losses) <= 5


def test_a_server_that_completes_something_comes_back_as_soon_after_its_next_loss(
    start_server, connect, monkeypatch
):
    server = start_server()
    engine, pauses_s, sleep = connect(server), [], asyncio.sleep
    monkeypatch.setattr(asyncio, "sleep", lambda s: pauses_s.append(s) or sleep(s))
    answers = (["hang up"] * 3 + [None]) * 4
    server.script = lambda body: answers.pop(0)
    for _ in range(4):
        assert prompts_of(engine.complete(asks("a"))) == ["a"]
    assert sum("is lost" in said for said in engine.take_messages()) == 4
    assert max(pauses_s) == engine.patience.health_every_s


def test_a_request_goes_to_a_server_that_it_has_not_brought_down(start_server, connect):
    """The good server is busy until the other one has been well again for long."""
    weak, good = start_server(), start_server()
    engine = connect(weak, good, max_in_flight=4)
    poison = is_asking_for("a")
    weak.script = lambda body: fake.error(500, "kernel fault") if poison(body) else None
    good.script = lambda body: None if poison(body) else time.sleep(1.0)
    assert prompts_of(engine.complete(asks(*"ab"))) == ["a", "b"]
    assert len(weak.bodies()) == 3


def test_a_request_that_avoids_a_server_does_not_hold_up_those_behind_it(start_server, connect):
    """The good server is busy until the other one, well again, is asked what stands behind."""
    weak, good = start_server(), start_server()
    engine = connect(weak, good, max_in_flight=4)
    behind_is_asked, in_time = threading.Event(), []

    def weakly(body):
        if is_asking_for("c")(body):
            behind_is_asked.set()
        return fake.error(500, "kernel fault") if is_asking_for("a")(body) else None

    def busily(body):
        if is_asking_for("b")(body):
            in_time.append(behind_is_asked.wait(5))

    weak.script, good.script = weakly, busily
    assert prompts_of(engine.complete(asks(*"abc"))) == ["a", "b", "c"]
    assert in_time == [True]


def test_the_late_answer_of_a_lost_server_is_dropped(start_server, connect):
    slow, good = start_server(), start_server()
    engine, release = connect(slow, good, max_in_flight=8), threading.Event()

    def script(body):
        if is_asking_for("a")(body):
            release.wait(20)
            return None
        return "hang up"

    slow.script = script
    good.script = lambda body: release.set() if is_asking_for("a")(body) else None
    groups = list(engine.complete(asks(*"abcd")))
    assert release.is_set()
    assert prompts_of(groups) == list("abcd")
    assert any(is_asking_for("a")(body) for body in slow.bodies())


def test_a_request_that_takes_too_long_is_asked_of_another_server(start_server, connect):
    slow, good = start_server(), start_server()
    engine, release = connect(slow, good, request_timeout_s=0.3), threading.Event()
    slow.script = lambda body: release.wait(20) and None
    assert prompts_of(engine.complete(asks(*"ab"))) == ["a", "b"]
    release.set()
    assert "no answer to /v1/completions within 0.3 s" in engine.take_messages()[0]
    assert len(slow.bodies()) == 1


def test_a_server_that_was_started_again_takes_work_in_the_same_call(
    start_server, connect, adapter_of
):
    server = start_server()
    engine = connect(server)
    engine.load_weights(adapter_of("one"), version=3)
    groups = engine.complete(asks(*"abcdef"))
    server.stop()
    starting = threading.Timer(0.4, server.start)
    starting.start()
    groups = list(groups)
    starting.join()
    assert prompts_of(groups) == list("abcdef")
    assert {c.policy_version for group in groups for c in group.completions} == {3}
    assert len(server.adapters) == 1
    lost, back = engine.take_messages()
    assert "is lost: ConnectError" in lost and "0 of 1 servers are left" in lost
    assert "is well again after" in back and server.url in back
    assert engine.take_messages() == []


def test_a_server_that_no_longer_knows_the_adapter_is_given_it_again(
    start_server, connect, adapter_of
):
    server = start_server()
    engine = connect(server)
    engine.load_weights(adapter_of("one"), version=3)
    server.adapters.clear()
    assert prompts_of(engine.complete(asks(*"ab"))) == ["a", "b"]
    assert "no longer knows" in engine.take_messages()[0]


def test_when_no_server_is_left_the_call_ends_after_the_stated_wait(start_server, connect):
    one, two = start_server(), start_server()
    engine = connect(one, two, max_wait_s=0.5)
    one.script = two.script = lambda body: fake.error(500, "out of memory")
    one.max_model_len = two.max_model_len = 32
    with pytest.raises(EngineLost) as caught:
        list(engine.complete(asks(*"ab")))
    said = str(caught.value)
    assert "has answered for 0.5 s (rollout.servers.max_wait_s)" in said
    assert (
        one.url in said and two.url in said and "at most 32 tokens" in said and fake.COMMAND in said
    )


def test_a_request_that_brings_down_every_server_is_not_asked_for_ever(start_server, connect):
    server = start_server()
    engine = connect(server)
    poison = is_asking_for("b")
    server.script = lambda body: fake.error(500, "kernel fault") if poison(body) else None
    with pytest.raises(EngineLost, match=r"problem key-b.* has failed 3 times.*kernel fault"):
        list(engine.complete(asks(*"abc")))
    assert sum(map(poison, server.bodies())) == 9


def test_a_request_that_a_server_refuses_is_not_asked_again(start_server, connect):
    server = start_server()
    engine = connect(server)
    server.script = lambda body: fake.error(400, "token 99 is out of vocabulary")
    with pytest.raises(RunError, match=r"problem key-a.*HTTP 400: token 99 is out of vocabulary"):
        list(engine.complete(asks("a")))
    assert len(server.bodies()) == 1


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"prompt_token_ids": [0, 97]}, "the prompt came back changed"),
        ({"token_ids": [10, 11]}, "stopped at"),
        ({"finish_reason": "length"}, "cut after 2 tokens"),
        ({"logprobs": None}, "not as asked"),
    ],
)
def test_an_answer_that_is_not_what_was_asked_is_an_error(start_server, connect, changed, words):
    server = start_server()
    engine = connect(server)
    server.script = lambda body: (200, {"choices": [fake.choice(body, 0) | changed]})
    with pytest.raises(RunError, match=words):
        list(engine.complete(asks("a", completions=1)))


def test_what_a_server_cuts_off_as_it_shuts_down_is_asked_again(start_server, connect):
    leaving, good = start_server(), start_server()
    engine = connect(leaving, good)
    aborted = {"finish_reason": "abort"}
    leaving.script = lambda body: (200, {"choices": [fake.choice(body, 0) | aborted]})
    groups = list(engine.complete(asks(*"ab", completions=1)))
    assert prompts_of(groups) == ["a", "b"]
    assert {c.finish_reason for group in groups for c in group.completions} == {"stop"}
    assert "'abort'" in engine.take_messages()[0]


def test_a_call_that_is_given_up_leaves_the_engine_as_it_was(start_server, connect):
    server = start_server()
    engine, release = connect(server, max_in_flight=4), threading.Event()
    server.script = lambda body: release.wait(20) and None if is_asking_for("b")(body) else None
    groups = engine.complete(asks(*"abc"))
    assert next(groups).problem.prompt == "a"
    groups.close()
    assert prompts_of(engine.complete(asks(*"de"))) == ["d", "e"]
    release.set()


def test_a_call_that_waits_for_servers_that_are_gone_ends_when_another_thread_cuts_it(
    start_server, connect
):
    server = start_server()
    engine, ended = connect(server, max_wait_s=600.0), []

    def call():
        with pytest.raises(CancelledError):
            list(engine.complete(asks("a")))
        ended.append(True)

    server.script = lambda body: fake.error(500, "kernel fault")
    thread = threading.Thread(target=call)
    thread.start()
    fake.wait_until(engine.take_messages)  # The only server is lost.
    engine.cut()
    thread.join(20)
    assert ended == [True]
    call()  # One that was about to begin ends as well.


def test_a_prompt_without_room_is_an_error_before_anything_is_asked(start_server, connect):
    server = start_server()
    with pytest.raises(ModelError, match=r"max_new_tokens=62 .* key-abc.* 64 positions"):
        list(connect(server).complete(asks("abc", max_new_tokens=62)))
    assert server.bodies() == []


def test_pauses_double_and_are_spread_by_the_requests_key():
    pauses = [backoff_s(0.5, key=7, attempt=attempt) for attempt in range(3)]
    for pause, full in zip(pauses, [0.5, 1.0, 2.0], strict=True):
        assert full / 2 <= pause < full
    assert pauses == [backoff_s(0.5, key=7, attempt=attempt) for attempt in range(3)]
    assert len({backoff_s(0.5, key=key, attempt=0) for key in range(100)}) == 100
