"""One push, over real HTTP, by a real process, and everything that a hub may do to it."""

import time
from pathlib import Path

import pytest

from rl_llm.errors import PushFailed, PushRefused
from rl_llm.hub import push_now
from rl_llm.hub.attempt import Attempt
from rl_llm.hub.pusher import pushed_line
from rl_llm.plugins import load_module

_shared = load_module(Path(__file__).parent / "conftest.py")
QUICK, TOKEN = _shared.QUICK, _shared.fake_hub.TOKEN

pytestmark = pytest.mark.slow


def push(job):
    said = []
    outcome = push_now(job, say=said.append, patience=QUICK)
    return outcome, said


def refused(job):
    with pytest.raises(PushRefused) as error:
        push(job)
    assert TOKEN not in str(error.value)
    return str(error.value)


def failing(status, part, *, times, headers=None):
    """Answer the first `times` calls of paths with `part` in them with a status."""

    def script(method, path, count):
        if part in path and count <= times:
            return status, headers or {}, {"error": "as the test wants it"}
        return None

    return script


def test_a_push_is_one_commit_to_a_private_repository_that_is_made(hub, job, pushed):
    outcome, said = push(job())
    assert outcome.url == f"{hub.url}/me/adder" and outcome.is_private and said == []
    assert hub.private == {"me/adder": True}
    assert hub.commits["me/adder"] == {"main": ["initial commit", "Add it"]}
    assert pushed(job())


def test_a_revision_is_a_branch_from_the_first_commit_without_what_main_got_since(hub, job, pushed):
    hub.make("me/adder", files={"model.safetensors": b"full weights"})
    outcome, _ = push(job(revision="step-000050"))
    assert outcome.url == f"{hub.url}/me/adder/tree/step-000050"
    assert pushed(job(), "step-000050")
    assert hub.commits["me/adder"]["main"] == ["initial commit"]


def test_a_second_push_to_a_branch_is_a_second_commit(hub, job):
    push(job(revision="step-000050"))
    push(job(revision="step-000050", message="Again"))
    assert hub.commits["me/adder"]["step-000050"] == ["initial commit", "Add it", "Again"]


def test_a_name_alone_is_a_repository_of_the_tokens_user(hub, job):
    outcome, _ = push(job(repo_id="adder"))
    assert outcome.url == f"{hub.url}/me/adder"


def test_a_public_repository_is_refused_unless_that_is_wanted(hub, job):
    hub.make("me/adder", private=False)
    message = refused(job())
    assert "me/adder is public" in message and "hub.private=false" in message
    assert hub.commits["me/adder"] == {"main": ["initial commit"]} and hub.paths("PUT") == []
    outcome, _ = push(job(private=False))
    assert not outcome.is_private
    assert pushed_line("it", outcome, job(private=False)).endswith("/me/adder (public)")


def test_a_private_repository_stays_private_and_that_is_said(hub, job):
    hub.make("me/adder", private=True)
    outcome, _ = push(job(private=False))
    assert outcome.is_private
    assert pushed_line("it", outcome, job(private=False)).endswith(
        "/me/adder (private, as the repository was: its settings on the hub make it public)"
    )
    assert pushed_line("it", outcome, job()).endswith("/me/adder (private)")


@pytest.mark.parametrize(
    ("there", "is_merged"), [("adapter_config.json", True), ("model.safetensors", False)]
)
def test_full_weights_and_an_adapter_are_not_mixed_in_one_branch(hub, job, there, is_merged):
    hub.make("me/adder", files={there: b"{}"})
    assert "push to another revision" in refused(job(is_merged=is_merged))
    assert hub.commits["me/adder"] == {"main": ["initial commit"]}


def test_a_wrong_token_is_refused_and_named_by_where_it_is_from(hub, job, leads_to):
    leads_to(hub.url, token="hf_" + "w" * 30)
    message = refused(job())
    assert f"HTTP 401 from {hub.url}" in message
    assert "the environment variable HF_TOKEN" in message and "hf_w" not in message


def test_no_token_is_refused_without_asking_the_hub(hub, job, leads_to):
    leads_to(hub.url, token="")
    assert "needs a token, and there is none; log in with `hf auth login`" in refused(job())
    assert hub.asked == []


def test_a_token_that_is_no_header_is_refused_and_not_shown(hub, job, leads_to):
    leads_to(hub.url, token="hf_tök en")
    message = refused(job())
    assert "no HTTP header can carry" in message and "tök" not in message


def test_a_token_that_the_hub_repeats_is_hidden(hub, job):
    said = {"error": f"the token {TOKEN} is read only"}
    hub.script = lambda method, path, count: (403, {}, said) if "/commit/" in path else None
    assert "(the token [token] is read only)" in refused(job())


def test_a_repository_of_others_is_refused(hub, job):
    message = refused(job(repo_id="they/adder"))
    assert f"HTTP 403 from {hub.url}" in message and "may not write to they/adder" in message
    assert "write access to they" in message


def test_a_repository_that_vanishes_is_refused(hub, job):
    hub.script = failing(404, "/preupload/", times=99, headers={"X-Error-Code": "RepoNotFound"})
    assert "no repository me/adder" in refused(job())


def test_a_card_that_the_hub_does_not_take_is_refused_before_anything_is_sent(hub, job):
    files = job().files
    Path(files["README.md"]).write_text("# No metadata\n", encoding="utf-8")
    assert "Invalid metadata in README.md. - no metadata" in refused(job())
    assert hub.paths("PUT") == []


def test_offline_mode_is_refused_with_its_variable(hub, job, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "HF_HUB_OFFLINE" in refused(job())
    assert hub.asked == []


def test_a_commit_that_meets_another_is_tried_again(hub, job, pushed):
    hub.script = failing(409, "/commit/", times=1)
    _, (said,) = push(job())
    assert said.startswith(f"HTTP 409 from {hub.url}: another change of me/adder is under way")
    assert pushed(job())


def test_too_many_requests_wait_as_long_as_the_hub_asks(hub, job, pushed):
    hub.script = failing(429, "/commit/", times=1, headers={"Retry-After": "2"})
    _, (said,) = push(job())
    first, second = hub.times("POST", "/commit/")
    assert second - first >= 2.0
    assert "it asks to wait 2 s" in said and said.endswith("trying again in 2 s")
    assert pushed(job())


def test_a_server_error_is_tried_again_and_then_is_a_failure(hub, job, pushed):
    hub.script = failing(500, "/commit/", times=2)
    _, said = push(job())
    assert len(said) == 2 and all(words.startswith("HTTP 500") for words in said)
    assert pushed(job())
    hub.script = failing(500, "/commit/", times=99)
    with pytest.raises(PushFailed, match="HTTP 500") as error:
        push(job(message="Again"))
    assert "run the same command again later" in str(error.value)
    assert hub.commits["me/adder"]["main"] == ["initial commit", "Add it"]


def test_a_connection_that_is_cut_in_an_upload_sends_the_file_again_as_a_whole(hub, job, pushed):
    hub.script = lambda method, path, count: "cut" if method == "PUT" and count == 1 else None
    push(job())
    assert len(hub.paths("PUT")) == 2
    assert pushed(job())


def test_a_hub_that_never_answers_is_given_up_after_the_stall(hub, job):
    hub.script = lambda method, path, count: "hang"
    began = time.monotonic()
    with pytest.raises(PushFailed, match=r"no answer from .* within 0.5 s \(ReadTimeout\)"):
        push(job(stall_s=0.5))
    assert time.monotonic() - began < 20


def test_an_attempt_is_ended_at_its_limit_also_when_nobody_waits_for_it(hub, job):
    hub.script = lambda method, path, count: "hang"
    began = time.monotonic()
    attempt = Attempt(job(), limit_s=2.0, is_behind=True)
    assert attempt.outcome().fault == "not done within 2 s; hub.max_wait_s can give it more"
    assert time.monotonic() - began < 6.9  # By itself: whoever waits would give it 5 s more.


def test_a_hub_that_is_not_there_is_a_failure_with_its_address(leads_to, job):
    leads_to("http://127.0.0.1:9")
    with pytest.raises(PushFailed, match=r"no connection to http://127.0.0.1:9: .*HF_ENDPOINT"):
        push(job())


def test_something_else_than_a_hub_is_a_failure_with_its_address(hub, job):
    hub.script = lambda method, path, count: (200, {}, b"<html>")
    with pytest.raises(PushFailed, match="gives answers that a hub does not give"):
        push(job())


def test_a_hub_without_xet_is_a_failure_with_the_variable_that_does_without(hub, job, monkeypatch):
    monkeypatch.delenv("HF_HUB_DISABLE_XET")
    with pytest.raises(PushFailed, match="for a hub that speaks no xet set HF_HUB_DISABLE_XET=1"):
        push(job())


def test_a_process_that_dies_is_a_failure_with_its_last_words(hub, job, monkeypatch):
    monkeypatch.setattr("rl_llm.hub.attempt._PROGRAM", "raise MemoryError('no room')")
    assert Attempt(job(), limit_s=9.0, is_behind=True).outcome().fault == (
        "the process that pushes ended with code 1: MemoryError: no room"
    )
