"""What child processes see and say."""

import contextlib
import os
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import psutil
import pytest

from rl_llm.rollout.child import (
    ChildLog,
    cause_in,
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
    stamped = f"(EngineCore pid=1) ERROR 11-21 21:54:35 [a.py:3] {died}"
    printed = f"RuntimeError: Executor failed.\n{stamped}\nRuntimeError: cancelled\n"
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
    died = "Worker proc VllmWorker-0 died unexpectedly (exit code: 0), shutting down executor."
    assert log_of(f"RuntimeError: Executor failed.\n{died}\n").cause([1]) == told
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


@pytest.fixture
def run_program(tmp_path):
    """Run a program that starts processes, which import it from its file."""

    def run(text):
        file = tmp_path / "program.py"
        file.write_text(text, encoding="utf-8")
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
        return subprocess.run(
            [sys.executable, str(file)], capture_output=True, text=True, env=environment, timeout=90
        )

    return run


@pytest.mark.parametrize("received", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_group_passes_a_bound_process_by(run_program, received):
    program = f"""
import multiprocessing, os, signal, time
from rl_llm.rollout.child import bound_to_this_process

if __name__ == "__main__":
    os.setpgid(0, 0)
    heard = []
    signal.signal({received:d}, lambda *_: heard.append("here"))
    with bound_to_this_process():
        bound = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(3,))
        bound.start()
    free = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(60,))
    free.start()
    while os.getpgid(bound.pid) == os.getpid():
        time.sleep(0.01)
    os.killpg(0, {received:d})
    bound.join(), free.join()
    print(heard, bound.exitcode, free.exitcode != 0)
"""
    done = run_program(program)
    assert done.stdout == "['here'] 0 True\n", done.stderr


def test_a_bound_process_ends_with_the_one_that_started_it_also_where_that_is_killed(
    run_program,
):
    program = """
import multiprocessing, os, signal, time
from rl_llm.rollout.child import bound_to_this_process

if __name__ == "__main__":
    with bound_to_this_process():
        bound = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(600,))
        bound.start()
    print(bound.pid, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""
    done = run_program(program)
    assert done.returncode == -signal.SIGKILL
    with contextlib.suppress(psutil.NoSuchProcess):
        psutil.Process(int(done.stdout)).wait(timeout=60)


def test_what_a_bound_process_starts_ends_with_it_also_where_it_is_not_forked(run_program):
    program = """
import multiprocessing, time
from rl_llm.rollout.child import bound_to_this_process

def start_another(told):
    another = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(600,))
    another.start()
    told.send(another.pid)
    time.sleep(600)

if __name__ == "__main__":
    heard, told = multiprocessing.Pipe()
    with bound_to_this_process():
        bound = multiprocessing.get_context("spawn").Process(target=start_another, args=(told,))
        bound.start()
    print(heard.recv())
    bound.kill()
    bound.join()
"""
    done = run_program(program)
    with contextlib.suppress(psutil.NoSuchProcess):
        psutil.Process(int(done.stdout)).wait(timeout=60)


def test_the_exit_code_is_there_when_the_end_is_seen(run_program):
    """The process closes what it has open well before it ends, as the system does just before."""
    program = """
import multiprocessing, os, signal, time
from multiprocessing.connection import wait
from rl_llm.rollout.child import bound_to_this_process

def end_slowly():
    os.closerange(3, 256)
    time.sleep(1)
    os.kill(os.getpid(), signal.SIGKILL)

if __name__ == "__main__":
    with bound_to_this_process():
        bound = multiprocessing.get_context("fork").Process(target=end_slowly)
        bound.start()
    wait([bound.sentinel])
    print(bound.exitcode)
"""
    assert run_program(program).stdout == "-9\n"


def test_what_a_child_prints_goes_to_the_log_and_what_is_printed_later_does_not(capfd):
    log = ChildLog()
    with log.taking_output():
        subprocess.run([sys.executable, "-c", "print('from the child')"], check=True)
        os.write(1, b"meanwhile\n")
    os.write(1, b"afterwards\n")
    assert log.read().splitlines() == ["from the child", "meanwhile"]
    assert capfd.readouterr().out == "afterwards\n"
    log.close()
