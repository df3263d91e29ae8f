"""What child processes see and say."""

import multiprocessing
import os
import signal
import subprocess
import sys

from rl_llm.rollout.child import ChildLog, cause_in, deaf_to_interrupts, environment_of_child

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
