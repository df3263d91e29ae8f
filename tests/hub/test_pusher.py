"""Pushes behind a run: one after the other, patient, and out of the way."""

import time
from dataclasses import replace
from pathlib import Path

import pytest

from rl_llm.hub import Outcome, Pusher
from rl_llm.hub.pusher import Push
from rl_llm.plugins import load_module

_shared = load_module(Path(__file__).parent / "conftest.py")
QUICK = _shared.QUICK

pytestmark = pytest.mark.slow


@pytest.fixture
def pusher():
    made = Pusher(limit_s=30.0, patience=QUICK)
    yield made
    made.close()


def push_of(job, name, **given):
    return Push(name=name, job=job, command=f"push {name}", **given)


def wait_until(holds, timeout_s=30.0):
    end = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_pushes_go_in_order_and_are_said_once_each(hub, job, pusher):
    done = []
    for name in ("step-000001", "step-000002"):
        given = job(revision=name, message=name)
        pusher.add(push_of(given, name, on_done=lambda name=name: done.append(name)))
    wait_until(lambda: len(done) == 2)
    assert done == ["step-000001", "step-000002"]
    messages = pusher.take_messages()
    assert messages[0] == f"pushed step-000001: {hub.url}/me/adder/tree/step-000001 (private)"
    assert len(messages) == 2 and pusher.take_messages() == []
    assert pusher.finish() == []


def test_adding_does_not_wait_for_a_hub_that_hangs(hub, job, pusher):
    hub.script = lambda method, path, count: "hang"
    began = time.monotonic()
    pusher.add(push_of(job(), "end"))
    pusher.take_messages()
    assert time.monotonic() - began < 0.2


def test_a_failure_is_said_once_tried_again_and_forgotten_once_it_works(hub, job, pusher):
    hub.script = lambda method, path, count: (
        (500, {}, {}) if "/commit/" in path and count <= 3 else None
    )
    pusher.add(push_of(job(), "end"))
    wait_until(lambda: len(hub.commits.get("me/adder", {}).get("main", ())) == 2)
    wait_until(lambda: not pusher.left())
    failed, pushed = pusher.take_messages()
    assert failed.startswith("not pushed: end: HTTP 500 from")
    assert failed.endswith("; tried again while training goes on")
    assert pushed.startswith("pushed end: ")
    times = hub.times("POST", "/commit/")
    assert len(times) == 4 and times[3] - times[2] >= 0.4  # Behind 0.1, 0.2 and 0.4 s.


def test_a_kind_of_failure_is_said_once_however_long_the_hub_asks_to_wait(hub, job, pusher):
    answers = [(429, {"Retry-After": "1"}, {}), (429, {}, {}), (500, {}, {})]
    hub.script = lambda method, path, count: (
        answers.pop(0) if "/commit/" in path and answers else None
    )
    pusher.add(push_of(job(), "end"))
    wait_until(lambda: not pusher.left())
    busy, failed, pushed = pusher.take_messages()
    assert "HTTP 429" in busy and "it asks to wait 1 s" in busy
    assert "HTTP 500" in failed and pushed.startswith("pushed end: ")


def test_what_is_refused_is_tried_once_more_at_the_end(hub, job, pusher, leads_to):
    leads_to(hub.url, token="hf_" + "w" * 30)
    pusher.add(push_of(job(), "end"))
    wait_until(lambda: pusher.left()[0].outcome is not None)
    (said,) = pusher.take_messages()
    assert "HTTP 401" in said and said.endswith("tried once more at the end")
    time.sleep(0.5)
    num_asked = len(hub.asked)
    leads_to(hub.url)  # Whoever ran it has logged in meanwhile.
    assert pusher.finish() == []
    assert len(hub.asked) > num_asked and hub.commits["me/adder"]["main"][-1] == "Add it"


def test_at_the_end_a_dead_hub_costs_a_few_tries_and_the_command_is_left(leads_to, job, pusher):
    leads_to("http://127.0.0.1:9")
    for name in ("a", "b", "c"):
        pusher.add(push_of(job(), name))
    began = time.monotonic()
    left = pusher.finish()
    assert time.monotonic() - began < 25
    assert [push.command for push in left] == ["push a", "push b", "push c"]
    assert all("no connection" in push.fault for push in left)
    tries = [push.num_failed for push in left]  # In turns, up to the third of one.
    assert max(tries) == 3 and min(tries) >= 1 and sum(tries) <= 7


def test_once_one_is_given_up_the_others_are_not_tried_as_often(job, pusher):
    a, b, c = (push_of(job(), name) for name in "abc")
    pusher._waiting, pusher._end_at_s = [a, b, c], time.monotonic() + 30
    for failing in (a, b, a, b, a):
        assert not any(push.is_given_up for push in (a, b, c))
        pusher._plan(failing, Outcome(fault="HTTP 500"))
    assert (a.is_given_up, b.is_given_up, c.is_given_up) == (True, True, False)
    pusher._plan(c, Outcome(fault="HTTP 500"))
    assert c.is_given_up


def test_at_the_end_a_hub_that_hangs_costs_the_limit_and_no_more(hub, job):
    hub.script = lambda method, path, count: "hang"
    pusher = Pusher(limit_s=2.0, patience=QUICK)
    pusher.add(push_of(job(), "end"))
    began = time.monotonic()
    (left,) = pusher.finish()
    assert 1.9 < time.monotonic() - began < 4.0
    assert left.command == "push end" and left.fault


def test_a_hub_that_asks_to_wait_past_the_end_is_not_waited_for(hub, job, pusher):
    hub.script = lambda method, path, count: (429, {"Retry-After": "3600"}, {})
    pusher.add(push_of(job(), "end"))
    began = time.monotonic()
    (left,) = pusher.finish()
    assert time.monotonic() - began < 10 and "asks to wait 3600 s" in left.fault


def test_closing_ends_the_process_that_pushes(hub, job, pusher):
    hub.script = lambda method, path, count: "hang"
    pusher.add(push_of(job(), "end"))
    wait_until(lambda: hub.asked)
    process = pusher._attempt._process
    pusher.close()
    assert process.wait(timeout=5) == -9
    assert pusher.left()[0].fault == "stopped while it was under way"


def test_what_is_added_under_a_name_again_takes_the_others_place(hub, job, pusher):
    hub.script = lambda method, path, count: (500, {}, {}) if "/commit/" in path else None
    pusher.add(push_of(job(), "end"))
    wait_until(lambda: pusher.left()[0].outcome is not None)
    hub.script = lambda method, path, count: None
    pusher.add(push_of(replace(job(), message="The new one"), "end"))
    assert pusher.finish() == []
    assert hub.commits["me/adder"]["main"][-1] == "The new one"


def test_the_oldest_that_is_not_under_way_gives_way(hub, job, pusher):
    hub.script = lambda method, path, count: "hang"
    for name in ("a", "b", "c"):
        pusher.add(push_of(job(), name))
        wait_until(lambda: hub.asked)
    assert pusher.drop_oldest().name == "b"
    assert [push.name for push in pusher.left()] == ["a", "c"]


def test_a_push_that_was_replaced_while_under_way_leaves_what_the_new_one_needs(hub, job, pusher):
    done = []
    pusher.add(push_of(job(), "step", on_done=lambda: done.append("old")))
    wait_until(lambda: pusher._under_way is not None)
    pusher.add(push_of(job(message="again"), "step", on_done=lambda: done.append("new")))
    wait_until(lambda: not pusher.left())
    wait_until(lambda: done)
    assert done == ["new"]
