"""Processes that watch each other, on two machines of two: real ones, which really die."""

import json
import multiprocessing
import os
import signal
import socket
import time

import pytest

from rl_llm.policy import watch
from rl_llm.policy.watch import End, Seat, start_watch

FORK = multiprocessing.get_context("fork")


def seat_of(rank):
    return Seat(
        rank=rank, num_ranks=4, local_rank=rank % 2, pid=os.getpid(), host=f"machine{rank // 2}"
    )


def say_into(note, rank):
    return lambda end: note([rank, end.rank, end.text])


def play(rank, shared, said, go, act):
    """Be one process: start to watch, act, and leave."""
    signal.signal(signal.SIGTERM, lambda *_: exit(143))

    def from_main(value):
        if rank > 0:
            return shared.get()
        for _ in range(3):
            shared.put(value)
        return value

    def note(words):
        with said.open("a", encoding="utf-8") as file:
            file.write(json.dumps(words) + "\n")

    found = start_watch(
        seat_of(rank),
        from_main,
        is_one_machine=True,
        say=say_into(note, rank),
    )
    note([rank, os.getpid()])
    until(go.exists)
    act(found)
    found.leave()


@pytest.fixture
def processes(monkeypatch, tmp_path):
    """Start four that do what `act(rank)` returns; return exit codes, and who said what."""
    monkeypatch.setattr(watch, "_SETTLE_S", 0.3)
    monkeypatch.setattr(watch, "_ANSWER_S", 0.6)
    monkeypatch.setattr(watch, "_LEAVE_S", 0.6)
    running = []

    said = tmp_path / "said.jsonl"
    said.touch()

    def words(length):
        lines = map(json.loads, said.read_text(encoding="utf-8").splitlines())
        return sorted(line for line in lines if len(line) == length)

    def run(act, *, then=lambda pids: None):
        shared, go = FORK.SimpleQueue(), tmp_path / "go"
        running.extend(
            FORK.Process(target=play, args=(rank, shared, said, go, act(rank))) for rank in range(4)
        )
        for process in running:
            process.start()
        until(lambda: len(words(2)) == 4)
        pids = dict(words(2))
        go.touch()
        then(pids)
        until(lambda: sum(process.is_alive() for process in running) == NUM_STOPPED.get(act, 0))
        return [process.exitcode for process in running], words(3), pids

    yield run
    for process in running:
        process.kill()
        process.join()


def until(is_so):
    started = time.monotonic()
    while not is_so():
        assert time.monotonic() - started < 10
        time.sleep(0.01)


def waits(_watch):
    time.sleep(20)


def all_wait(_rank):
    return waits


def fails(rank, text="error: wrong", code=2, **more):
    return lambda found: exit(found.end_all(End(rank=rank, text=text, code=code, **more)).code)


def rank_3_fails(rank):
    return fails(3) if rank == 3 else waits


def all_fail(rank):
    return fails(rank)


def rank_1_fails_of_the_death_of_2(rank):
    return fails(1, "Connection closed by peer", 1) if rank == 1 else waits


def nobody_listens_to_signals(rank):
    def act(found):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        found.end_all(End(rank=3, text="error: wrong", code=2)) if rank == 3 else None
        waits(found)

    return act


def all_but_one_leave(rank):
    return (lambda _: time.sleep(0.5)) if rank == 2 else lambda _: None


def rank_0_is_late(rank):
    def act(found):
        time.sleep(0.3)  # The other has stopped by then.
        fails(rank, "late", 1, is_late=True)(found)

    return act if rank == 0 else waits


def all_but_0_are_late(rank):
    def act(found):
        time.sleep(0.3)
        fails(rank, "late", 1, is_late=True)(found)

    return act if rank else waits


NUM_STOPPED = {rank_0_is_late: 1, all_but_0_are_late: 1}


@pytest.mark.parametrize(("dead", "speakers"), [(0, [1, 2]), (1, [0, 2]), (2, [0, 3])])
def test_a_death_is_said_once_on_each_machine_and_ends_the_others(processes, dead, speakers):
    codes, words, pids = processes(all_wait, then=lambda pids: os.kill(pids[dead], signal.SIGKILL))
    assert [code for rank, code in enumerate(codes) if rank != dead] == [143] * 3
    name = f"rank {dead} (pid {pids[dead]} on machine{dead // 2})"
    assert [(by, of) for by, of, _ in words] == [(by, dead) for by in speakers]
    assert all(text.startswith(f"error: {name} is gone without a word") for *_, text in words)


def test_an_error_is_said_once_on_each_machine_and_its_code_is_that_of_the_process(processes):
    codes, words, _ = processes(rank_3_fails)
    assert (codes[3], words) == (2, [[0, 3, "error: wrong"], [2, 3, "error: wrong"]])


def test_an_error_of_all_is_said_once_on_each_machine(processes):
    codes, words, _ = processes(all_fail)
    assert codes == [2, 2, 2, 2]
    assert [by for by, *_ in words] == [0, 2] and len({of for _, of, _ in words}) == 1


def test_processes_end_where_nobody_reads_what_they_say(processes, monkeypatch):
    def broken(_note, _rank):
        def say(_end):
            raise BrokenPipeError

        return say

    monkeypatch.setitem(globals(), "say_into", broken)
    codes, words, _ = processes(rank_3_fails)
    assert (codes, words) == ([143, 143, 143, 2], [])


def test_a_death_comes_before_the_errors_that_it_makes(processes, monkeypatch):
    monkeypatch.setattr(watch, "_SETTLE_S", 5.0)

    def kill_rank_2(pids):
        time.sleep(0.3)  # The error is told by then.
        os.kill(pids[2], signal.SIGKILL)

    _, words, _ = processes(rank_1_fails_of_the_death_of_2, then=kill_rank_2)
    assert [(by, of) for by, of, _ in words] == [(0, 2), (3, 2)]


def test_a_process_that_does_nothing_about_it_is_ended_all_the_same(processes):
    codes, _, _ = processes(nobody_listens_to_signals)
    assert codes == [2, 2, 2, 2]


def test_who_leaves_ends_nobody(processes):
    codes, words, _ = processes(all_but_one_leave)
    assert (codes, words) == ([0, 0, 0, 0], [])


@pytest.mark.parametrize(
    ("late", "hanging", "speakers"), [(rank_0_is_late, 3, [0, 2]), (all_but_0_are_late, 0, [1, 2])]
)
def test_a_process_that_hangs_as_a_whole_is_named(processes, late, hanging, speakers):
    _, words, pids = processes(late, then=lambda pids: os.kill(pids[hanging], signal.SIGSTOP))
    assert [by for by, *_ in words] == speakers
    silent = f"\nno answer from rank {hanging} (pid {pids[hanging]} on machine{hanging // 2})"
    assert all(text == f"late{silent}" for *_, text in words)


def test_a_stranger_is_turned_away():
    def greet(words):
        with (
            socket.create_server(("127.0.0.1", 0)) as server,
            socket.create_connection(server.getsockname()) as stranger,
            server.accept()[0] as connection,
        ):
            stranger.sendall(words)
            return watch._greeting(watch.Line(connection), "secret")

    assert greet(b"GET / HTTP/1.1\n") is None
    assert greet(b'{"secret": "other", "seat": {}}\n') is None
    assert greet(b'{"secret": "secret", "seat": %s}\n' % SEAT_3) == SEAT


SEAT = Seat(rank=3, num_ranks=4, local_rank=1, pid=7, host="machine1")
SEAT_3 = b'{"rank": 3, "num_ranks": 4, "local_rank": 1, "pid": 7, "host": "machine1"}'
