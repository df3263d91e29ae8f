"""`remote` over real HTTP, with a server that does what each test wants of it."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from rl_llm.cli.main import main
from rl_llm.config import RewardUse
from rl_llm.errors import ConfigError
from rl_llm.records import Completion, Group, Problem
from rl_llm.scoring import Failure, build_rubric, call_reward
from rl_llm.scoring.rubric import bind_reward

KEY = "sk-very-secret"
CHAT = ({"role": "user", "content": "2+2?"},)


class Server(ThreadingHTTPServer):
    """Takes the answers to give from a list, the last of them again and again.

    An answer is (status, body, headers), or a function of what was asked that gives one.
    """

    daemon_threads = True

    def __init__(self, *answers, port=0):
        super().__init__(("127.0.0.1", port), Handler)
        self.answers, self.asked, self.times_s = list(answers), [], []
        self.released = threading.Event()
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/score"

    def stop(self):
        self.released.set()
        self.shutdown()
        self.server_close()


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.times_s.append(time.monotonic())
        self.server.asked.append((self.path, dict(self.headers), json.loads(body)))
        answers = self.server.answers
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if answer == "cut":
            self.close_connection = True
            return
        if answer == "hang":
            self.server.released.wait(30)
            return
        status, said, headers = answer(self.server.asked[-1]) if callable(answer) else answer
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(said.encode())

    def log_message(self, *words):
        pass


@pytest.fixture
def serve():
    servers = []

    def start(*answers, port=0):
        servers.append(Server(*answers, port=port))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


def ok(said, **headers):
    return 200, said, headers


def group_of(*texts, prompt="2+2=", answer="4", **columns):
    completions = tuple(
        Completion(
            token_ids=(1, 2), logprobs=(0.0, 0.0), text=text, finish_reason="stop", policy_version=0
        )
        for text in texts
    )
    problem = Problem(key="k1", prompt=prompt, answer=answer, meta=columns)
    return Group(problem=problem, prompt_ids=(), completions=completions)


def give(url, group=None, *, timeout_s=20.0, **options):
    use = RewardUse(use="remote", url=url, timeout_s=timeout_s, **options)
    reward = bind_reward(use, path="rewards.0", columns=())
    return call_reward(reward, group_of("4", "5") if group is None else group)


def the_failure(outcomes):
    (failure,) = set(outcomes)
    assert isinstance(failure, Failure)
    return failure.kind, failure.message


def test_a_group_is_one_request_and_the_answer_its_scores(serve):
    server = serve(ok("[0.5, -2, null]"))
    group = group_of("4", "5", "\u00bd\n", prompt=CHAT, unit="cm", parts=[1, {"a": None}])
    assert give(server.url, group) == [0.5, -2.0, None]
    ((path, headers, asked),) = server.asked
    assert path == "/score"
    assert headers["Content-Type"] == "application/json"
    assert "Authorization" not in headers
    assert asked == {
        "prompt": [{"role": "user", "content": "2+2?"}],
        "completions": ["4", "5", "\u00bd\n"],
        "answer": "4",
        "columns": {"unit": "cm", "parts": [1, {"a": None}]},
    }


def test_a_list_of_lists_is_a_number_for_each_token(serve):
    assert give(serve(ok("[[0.5, 1], 3]")).url) == [(0.5, 1.0), 3.0]


@pytest.mark.parametrize("fault", [(500, "down", {}), (503, "", {}), (429, "busy", {}), "cut"])
def test_a_server_that_is_not_well_is_asked_again(serve, fault):
    server = serve(fault, fault, ok("[1, 0]"))
    assert give(server.url) == [1.0, 0.0]
    first, second, third = server.times_s
    assert second - first >= 0.2 and third - second >= 0.4
    assert len({json.dumps(body) for _, _, body in server.asked}) == 1


def test_a_server_that_is_not_there_yet_is_asked_again(serve):
    away = serve(ok("[]"))
    away.stop()
    back = threading.Timer(0.5, serve, [ok("[1, 0]")], {"port": away.server_port})
    back.start()
    assert give(away.url) == [1.0, 0.0]
    back.join()


def test_retry_after_is_waited_for(serve):
    server = serve((429, "busy", {"Retry-After": "1"}), ok("[1, 0]"))
    assert give(server.url) == [1.0, 0.0]
    first, second = server.times_s
    assert 1.0 <= second - first < 10.0


def test_a_retry_after_that_is_a_date_is_passed_over(serve):
    server = serve((503, "", {"Retry-After": "Fri, 31 Dec 2999 23:59:59 GMT"}), ok("[1, 0]"))
    assert give(server.url) == [1.0, 0.0]


def test_a_server_that_never_gets_well_costs_the_limit_and_its_last_words_are_told(serve):
    server = serve((503, "no\nmodel", {}))
    started = time.monotonic()
    kind, message = the_failure(give(server.url, timeout_s=1.0))
    assert time.monotonic() - started < 10.0
    assert kind == "timeout"
    assert message == (
        f"took longer than timeout_s=1: {server.url} was asked {len(server.asked)} times, at last "
        "with HTTP 503: no model"
    )
    assert 2 <= len(server.asked) <= 3  # At 0 s, 0.2 s and 0.6 s; the next would be at 1.4 s.


def test_a_server_that_is_slow_costs_the_limit(serve):
    server = serve("hang")
    kind, message = the_failure(give(server.url, timeout_s=0.5))
    assert kind == "timeout"
    assert message == f"took longer than timeout_s=0.5: {server.url} gave no answer"


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ((404, "no\nsuch <page> " + "x" * 500, {}), "HTTP 404: no such <page> xxx"),
        ((400, '{"detail": "no answer"}', {}), 'HTTP 400: {"detail": "no answer"};'),
        ((302, "", {"Location": "/elsewhere"}), "HTTP 302: nothing; it must be HTTP 200 and"),
        (ok("It is 4."), "HTTP 200: It is 4.; it must be HTTP 200 and a JSON list, a score a"),
        (ok('{"scores": [1, 0]}'), 'HTTP 200: {"scores": [1, 0]}; it must be'),
        (ok(""), "HTTP 200: nothing; it must be"),
        ((401, "who?", {}), "HTTP 401: who?; name the environment variable that holds"),
    ],
)
def test_any_other_answer_is_a_failure_at_once_that_quotes_its_beginning(serve, answer, words):
    server = serve(answer)
    kind, message = the_failure(give(server.url))
    assert kind == "raised"
    assert message.startswith(f"RuntimeError: {server.url} answered {words}")
    assert len(message) < 400 and "\n" not in message
    assert len(server.asked) == 1


def test_a_list_of_another_length_fails_the_group(serve):
    kind, message = the_failure(give(serve(ok("[1]")).url))
    assert kind == "wrong_value"
    assert "gave 1 values for 2 completions" in message


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("NaN", "gave nan, which is not finite"),
        ("-Infinity", "gave -inf, which is not finite"),
        ('"1"', "gave '1', which is not a number"),
        ("[1]", "gave 1 numbers for 2 tokens"),
        ('{"score": 1}', """gave '{"score": 1}', which is not a number"""),
    ],
)
def test_what_is_no_score_fails_its_own_completion(serve, said, words):
    good, bad = give(serve(ok(f"[1, {said}]")).url)
    assert good == 1.0
    assert bad.kind == "wrong_value" and words in bad.message


def test_columns_that_are_no_json_are_a_failure_before_anything_is_sent(serve):
    server = serve(ok("[1, 0]"))
    for value in ({1, 2}, float("nan")):
        _, message = the_failure(give(server.url, group_of("4", "5", column=value)))
        assert "a column of the data cannot be sent as JSON" in message
    assert server.asked == []


def test_the_key_is_sent_and_never_repeated(serve, monkeypatch):
    monkeypatch.setenv("OUR_KEY", KEY)
    server = serve(ok("[1, 0]"), (403, f"{KEY} is no key", {}), (500, f"not {KEY}", {}))
    assert give(server.url, api_key_env="OUR_KEY") == [1.0, 0.0]
    assert server.asked[0][1]["Authorization"] == f"Bearer {KEY}"
    _, refused = the_failure(give(server.url, api_key_env="OUR_KEY"))
    assert refused.endswith(
        "HTTP 403: [API key] is no key; the key in the environment variable OUR_KEY is not the "
        "server's"
    )
    _, late = the_failure(give(server.url, api_key_env="OUR_KEY", timeout_s=0.5))
    assert "HTTP 500: not [API key]" in late and KEY not in late


@pytest.mark.parametrize("said", [f'"{KEY}"', f'{{"key": "{KEY}"}}', f'[["{KEY}"], 1]'])
def test_a_key_in_the_place_of_a_score_is_not_repeated(serve, monkeypatch, said):
    monkeypatch.setenv("OUR_KEY", KEY)
    good, bad = give(serve(ok(f"[1, {said}]")).url, api_key_env="OUR_KEY")
    assert good == 1.0
    assert "[API key]" in bad.message and KEY not in bad.message


def test_a_server_that_asks_for_a_key_names_the_variable_to_set(serve, monkeypatch):
    monkeypatch.delenv("OUR_KEY", raising=False)
    server = serve((401, "who?", {}))
    _, message = the_failure(give(server.url, api_key_env="OUR_KEY"))
    assert message.endswith("who?; set the environment variable OUR_KEY to the server's API key")


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({}, "rewards.0.url: required, and missing"),
        ({"url": "ftp://a/b"}, "rewards.0.url: 'ftp://a/b' is no address of a server; write it"),
        ({"url": "http://me:secret@a"}, "rewards.0.url: an address holds a user name or password"),
        ({"url": "http://a?key=secret"}, "rewards.0.url: 'http://a' with what follows it is no"),
        (
            {"url": "http://a", "api_key_env": "sk-secret"},
            "rewards.0.api_key_env: this is no name of an environment variable",
        ),
        ({"url": "http://a", "token": "secret"}, "rewards.0.token: unknown option; known: api_key"),
    ],
)
def test_wrong_options_are_errors_that_repeat_no_secret(options, fault):
    with pytest.raises(ConfigError) as caught:
        build_rubric([RewardUse(use="remote", **options)], columns=())
    assert str(caught.value).startswith(fault)
    assert "secret" not in str(caught.value)


@pytest.mark.slow
def test_workers_ask_for_groups_at_the_same_time(serve, monkeypatch):
    monkeypatch.setenv("OUR_KEY", KEY)
    together = threading.Barrier(2, timeout=20)

    def both(asked):
        together.wait()
        completions, answer = asked[2]["completions"], asked[2]["answer"]
        return ok(json.dumps([float(text == answer) for text in completions]))

    use = RewardUse(use="remote", url=serve(both).url, api_key_env="OUR_KEY")
    rubric = build_rubric([use], columns=(), num_workers=2)
    scored = list(rubric.score([group_of("4", "5"), group_of("6", "4")]))
    rubric.close()
    assert [[score.total for score in each.scores] for each in scored] == [[1.0, 0.0], [0.0, 1.0]]


@pytest.mark.slow
def test_its_check_finds_no_fault(serve, capsys):
    server = serve(lambda asked: ok(json.dumps([len(t) % 7 for t in asked[2]["completions"]])))
    assert main(["rewards", "check", "remote", f"url={server.url}"]) == 0
    assert "no fault was found" in capsys.readouterr().out
