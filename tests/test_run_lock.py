"""One run at a time in a folder, and a lock that was left behind stops nobody."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from rl_llm import run_lock
from rl_llm.errors import InputError
from rl_llm.run_lock import hold, holder, this_process

LOAD = """\
import sys
from pathlib import Path
from rl_llm.errors import InputError
from rl_llm.run_lock import hold
"""

# Holds the lock of a folder, says so, and keeps it until its input ends.
HOLDER = f"""\
{LOAD}
with hold(Path(sys.argv[1]), on_loss=print) as note:
    print("held", note, flush=True)
    sys.stdin.read()
"""

# Many times: six forks take the lock of a new folder at the same moment, and all keep what they got
# until all have tried. Prints how many got it, and how many files were left, each time.
RACE = f"""\
import multiprocessing, shutil
from contextlib import ExitStack
{LOAD}
base, left_behind, num_rounds = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
fork = multiprocessing.get_context("fork")
together, results = fork.Barrier(7), fork.Queue()

def racer():
    for number in range(num_rounds):
        together.wait()
        with ExitStack() as held:
            try:
                held.enter_context(hold(base / str(number), on_loss=print))
                results.put(1)
            except InputError:
                results.put(0)
            together.wait()
        together.wait()

racers = [fork.Process(target=racer, daemon=True) for _ in range(6)]
for each in racers:
    each.start()
for number in range(num_rounds):
    folder = base / str(number)
    if left_behind:
        folder.mkdir()
        shutil.copy(left_behind, folder / "run.lock")
    together.wait()
    together.wait()
    together.wait()
    winners = sum(results.get() for _ in racers)
    print(winners, len(list(folder.iterdir())) if folder.exists() else 0)
"""


@pytest.fixture
def start():
    """Start a process that wants a folder's lock; those that are left are killed at the end."""
    started = []

    def run(folder):
        process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()


def let_go(process):
    process.communicate(timeout=30)
    assert process.returncode == 0


def leave_behind(folder, **changes):
    """Leave the lock of another process in a folder, one that never was unless `changes` say."""
    folder.mkdir(exist_ok=True)
    gone = subprocess.Popen(["true"])
    gone.wait()
    owner = replace(this_process(), pid=gone.pid, birth="1") if not changes else None
    owner = owner or replace(this_process(), **changes)
    (folder / "run.lock").write_text(json.dumps(vars(owner)), encoding="utf-8")
    return owner


def take(folder):
    """Take the lock, give it back, and return what was said."""
    with hold(folder, on_loss=pytest.fail) as note:
        return note


def test_the_lock_names_host_process_and_time_and_vanishes_at_the_end(tmp_path):
    folder = tmp_path / "run"
    with hold(folder, on_loss=pytest.fail) as note:
        owner = json.loads((folder / "run.lock").read_text(encoding="utf-8"))
        (folder / "metrics.jsonl").touch()
    assert note is None
    assert (owner["host"], owner["pid"]) == (os.uname().nodename, os.getpid())
    since = datetime.strptime(owner["since"], "%Y-%m-%d %H:%M:%S UTC").replace(tzinfo=UTC)
    assert abs((datetime.now(UTC) - since).total_seconds()) < 60
    assert [path.name for path in folder.iterdir()] == ["metrics.jsonl"]


def test_a_folder_that_only_the_lock_was_put_into_is_taken_away_again(tmp_path):
    (tmp_path / "there").mkdir()
    with pytest.raises(ZeroDivisionError), hold(tmp_path / "there" / "a" / "b", on_loss=print):
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == [tmp_path / "there"]
    assert list((tmp_path / "there").iterdir()) == []


def test_a_second_process_is_told_who_holds_the_lock_and_the_way_out(tmp_path, start):
    first = start(tmp_path)
    assert first.stdout.readline() == "held None\n"
    with pytest.raises(InputError) as refused:
        take(tmp_path)
    message = str(refused.value)
    assert f"{tmp_path} is in use: process {first.pid} on {os.uname().nodename} has" in message
    assert f"delete {tmp_path / 'run.lock'}" in message
    assert holder(tmp_path).pid == first.pid
    let_go(first)
    assert holder(tmp_path) is None
    assert take(tmp_path) is None


def test_the_lock_of_a_process_that_was_killed_is_taken_over_at_once(tmp_path, start):
    first = start(tmp_path)
    first.stdout.readline()
    first.send_signal(signal.SIGKILL)
    os.waitid(os.P_PID, first.pid, os.WEXITED | os.WNOWAIT)  # Dead, and not yet buried.
    said = f"run.lock was left behind by process {first.pid} on {os.uname().nodename}; it is taken"
    assert said in take(tmp_path)
    assert take(tmp_path) is None


def test_a_process_that_was_stopped_still_holds_its_lock(tmp_path, start):
    first = start(tmp_path)
    first.stdout.readline()
    first.send_signal(signal.SIGSTOP)
    with pytest.raises(InputError, match="is in use"):
        take(tmp_path)


def test_a_later_process_of_the_same_id_is_not_taken_for_the_owner(tmp_path):
    leave_behind(tmp_path, pid=os.getppid(), birth="1")
    assert f"left behind by process {os.getppid()}" in take(tmp_path)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"pid": 1}'])
def test_a_lock_that_was_cut_off_in_writing_holds_nobody_back(tmp_path, content):
    (tmp_path / "run.lock").write_text(content, encoding="utf-8")
    assert holder(tmp_path) is None
    assert take(tmp_path) is None


def test_a_run_on_another_machine_is_refused_until_it_is_silent_for_five_minutes(tmp_path):
    elsewhere = {"host": "node7", "pid": 4711, "place": "another boot of another kernel"}
    leave_behind(tmp_path, **elsewhere)
    lock = tmp_path / "run.lock"
    beat_ago(lock, 200)
    with pytest.raises(InputError) as refused:
        take(tmp_path)
    message = str(refused.value)
    assert "process 4711 on node7 has been training there since" in message
    assert "last sign of life 200 s ago (it counts as gone after 300 s of silence)" in message
    assert holder(tmp_path).pid == 4711
    beat_ago(lock, 310)
    assert holder(tmp_path) is None
    assert "left behind by process 4711 on node7" in take(tmp_path)


def beat_ago(lock, age_s):
    at_s = time.time() - age_s
    os.utime(lock, (at_s, at_s))


def wait_until(is_so):
    deadline = time.monotonic() + 20
    while not is_so() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert is_so()


def test_a_run_gives_signs_of_life(tmp_path, monkeypatch):
    monkeypatch.setattr(run_lock, "BEAT_S", 0.02)
    with hold(tmp_path, on_loss=pytest.fail):
        beat_ago(tmp_path / "run.lock", 1000)
        wait_until(lambda: time.time() - (tmp_path / "run.lock").stat().st_mtime < 500)


def test_a_run_whose_lock_was_deleted_hears_of_the_next_owner_and_leaves_it_alone(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(run_lock, "BEAT_S", 0.02)
    heard = []
    with hold(tmp_path, on_loss=heard.append):
        (tmp_path / "run.lock").unlink()
        time.sleep(0.1)
        assert heard == []
        leave_behind(tmp_path, pid=os.getppid())
        wait_until(lambda: heard)
    assert len(heard) == 1
    assert f"is now held by process {os.getppid()} on" in heard[0]
    assert (tmp_path / "run.lock").is_file()


@pytest.mark.parametrize("flock_works", [True, False])
def test_a_new_lock_goes_to_one_only_also_where_the_file_system_has_no_flock(
    tmp_path, monkeypatch, flock_works
):
    if not flock_works:
        monkeypatch.setattr(run_lock, "_guard", lambda lock: False)
    with hold(tmp_path, on_loss=pytest.fail), pytest.raises(InputError, match="is in use"):
        take(tmp_path)
    (tmp_path / "run.lock").touch()
    if flock_works:
        assert take(tmp_path) is None
    else:
        with pytest.raises(InputError, match="another run is just taking"):
            take(tmp_path)


@pytest.mark.parametrize("is_left_behind", [False, True])
def test_of_six_processes_that_start_together_exactly_one_gets_the_lock(tmp_path, is_left_behind):
    words = [str(tmp_path), "", "200"]
    if is_left_behind:
        leave_behind(tmp_path / "left")
        words[1] = str(tmp_path / "left" / "run.lock")
    raced = subprocess.run(
        [sys.executable, "-c", RACE, *words], capture_output=True, text=True, timeout=120
    )
    assert raced.returncode == 0, raced.stderr
    assert raced.stdout.splitlines() == ["1 0"] * 200


def test_a_lock_that_cannot_be_written_leaves_no_file(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(run_lock.os, "pwrite", full)
    with pytest.raises(OSError, match="full"), hold(tmp_path / "run", on_loss=pytest.fail):
        pass
    assert not (tmp_path / "run" / run_lock.LOCK_FILE).exists()
