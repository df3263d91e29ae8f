"""What child processes see and say."""

import multiprocessing
import os
import signal
import subprocess
import sys
from contextlib import closing

import pytest

from rl_llm.rollout.child import (
    ChildLog,
    cause_in,
    deaf_to_interrupts,
    environment_of_child,
    exit_codes_in,
)

STARTED = """\
(EngineCore pid=15) INFO 11-21 20:50:02 [core.py:133] Initializing
(EngineCore pid=15) WARNING 11-21 20:50:03 [base.py:380] ValueError: No tokenizer, going on
(Worker pid=16) ERROR 11-21 20:50:41 [multiproc.py:9] Traceback (most recent call last):
(Worker pid=16) ERROR 11-21 20:50:41 [multiproc.py:9]     raise ValueError("x")
(Worker pid=16) ERROR 11-21 20:50:41 [multiproc.py:9] ValueError: Free memory is 2 GiB
(EngineCore pid=15) ERROR 11-21 20:50:42 [core.py:9] Exception: WorkerProc initialization failed
RuntimeError: Engine core initialization failed. See root cause above.
"""


def test_the_error_that_came_first_is_the_cause():
    assert cause_in(STARTED) == "ValueError: Free memory is 2 GiB"


def test_that_a_process_died_says_more_than_what_was_cancelled_by_it():
    died = "Worker proc VllmWorker-0 died unexpectedly (exit code: -9), shutting down executor."
    printed = f"(EngineCore pid=1) ERROR 11-21 21:54:35 [a.py:3] {died}\nRuntimeError: cancelled\n"
    assert cause_in(printed) == died


def test_without_an_error_the_last_lines_are_the_cause():
    assert cause_in("one\ntwo\n\nthree\nfour\n") == "two / three / four"
    assert cause_in("") == ""


def test_progress_and_warnings_are_no_cause():
    bars = [
        f"\rLoading shards: {share:3}% Completed | {share // 100}/1 [00:00<00:00, 23.67it/s]"
        for share in (0, 100)
    ]
    warned = "dispatcher.py:139: FutureWarning: `reduce_op` is deprecated\n"
    assert cause_in("no room\n" + "".join(bars) + "\n" + warned) == "no room"


@pytest.fixture
def log_of():
    """A log of a child that printed a text."""
    logs = []

    def write(text):
        logs.append(ChildLog())
        with logs[-1].taking_output():
            os.write(2, text.encode())
        return logs[-1]

    yield write
    for log in logs:
        log.close()


KILLED = "one of its processes was ended by SIGKILL, as the system does when memory runs out"


def test_a_signal_is_the_cause_whatever_was_printed(log_of):
    assert log_of(STARTED).cause([-signal.SIGKILL]) == KILLED
    died = "Worker proc VllmWorker-0 died unexpectedly (exit code: -9), shutting down executor."
    assert log_of(f"RuntimeError: Executor failed.\n{died}\n").cause([1]) == KILLED
    assert log_of("").cause([-signal.SIGSEGV]) == "one of its processes was ended by SIGSEGV"
    with closing(ChildLog()) as unused:
        assert unused.cause([-signal.SIGKILL]) == KILLED


def test_a_process_that_ended_in_order_was_told_to_unless_it_says_otherwise(log_of):
    told = "one of its processes was told to end, as by SIGTERM"
    assert log_of("Loading\n").cause([0]) == told
    assert log_of("ValueError: no\n").cause([0]) == "ValueError: no"


def test_a_process_that_is_killed_as_it_starts_is_known_by_what_is_raised():
    said = "Engine core initialization failed. Failed core proc(s): {'EngineCore_DP0': -9}"
    assert exit_codes_in(said) == [-9]


def test_a_child_sees_no_launcher_and_the_settings_and_all_is_put_back(monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    before = dict(os.environ)
    names = ("RANK", "TORCHELASTIC_RUN_ID", "NEW")
    program = f"import os; print(*(os.environ.get(name) for name in {names}))"
    with environment_of_child({"NEW": "here"}):
        os.environ["LEFT_BY_A_LIBRARY"] = "1"
        seen = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert seen.stdout.split() == ["None", "None", "here"]
    assert dict(os.environ) == before


def test_processes_started_deaf_live_through_an_interrupt_and_this_one_and_later_ones_hear_it():
    heard = []
    spawning = multiprocessing.get_context("spawn")
    previous = signal.signal(signal.SIGINT, lambda *_: heard.append("here"))
    try:
        with deaf_to_interrupts():
            deaf = spawning.Process(target=signal.raise_signal, args=(signal.SIGINT,))
            deaf.start()
            signal.raise_signal(signal.SIGINT)
            assert heard == ["here"]
        hearing = spawning.Process(target=signal.raise_signal, args=(signal.SIGINT,))
        hearing.start()
    finally:
        signal.signal(signal.SIGINT, previous)
    for process in (deaf, hearing):
        process.join(60)
    assert deaf.exitcode == 0 and hearing.exitcode != 0


def test_what_a_child_prints_goes_to_the_log_and_what_is_printed_later_does_not(capfd):
    log = ChildLog()
    with log.taking_output():
        subprocess.run([sys.executable, "-c", "print('from the child')"], check=True)
        os.write(1, b"meanwhile\n")
    os.write(1, b"afterwards\n")
    assert log.read().splitlines() == ["from the child", "meanwhile"]
    assert capfd.readouterr().out == "afterwards\n"
    log.close()
