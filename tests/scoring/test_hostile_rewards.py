"""What hangs, crashes or leaves something behind harms its own call alone, and nothing is left."""

import threading
import time

import psutil
import pytest

TIMEOUT_S = 2.0  # That of the rubrics that `build` builds.

HOSTILE = """
import ctypes, os, signal, sys, threading, time

KEPT = []

def again():
    return again()

def r(completion, answer):
    match completion:
        case "loops":
            while True:
                pass
        case "holds the interpreter":
            return 10 ** 10 ** 9
        case "ignores signals":
            for number in {*signal.valid_signals()} - {signal.SIGKILL, signal.SIGSTOP}:
                signal.signal(number, signal.SIG_IGN)
            time.sleep(100)
        case "exits":
            os._exit(3)
        case "exits as if all were well":
            os._exit(0)
        case "crashes":
            ctypes.string_at(0)
        case "fills the memory":
            while True:
                KEPT.append(bytearray(1 << 24))
        case "recurses":
            return again()
        case "raises":
            raise ValueError("no")
        case "leaves by sys.exit":
            sys.exit(0)
        case "is interrupted":
            raise KeyboardInterrupt
        case "gives NaN":
            return float("nan")
        case "gives text":
            return "1.0"
        case "gives a list":
            return [1.0]
        case "reads":
            return float(input())
        case "closes all files":
            os.closerange(0, 256)
            time.sleep(100)
        case "writes over the channel":
            for number in range(3, 64):
                try:
                    os.write(number, b"x" * 64)
                except OSError:
                    pass
        case "prints 10 MB":
            print("x" * 10_000_000)
            os.write(2, b"y" * 100_000)
        case "sleeps":
            time.sleep(1.6)
        case "forks":
            if os.fork() == 0:
                time.sleep(600)
        case "comes back twice":
            os.fork()
        case "goes wrong later":
            threading.Timer(0.05, os._exit, [7]).start()
        case "is told to end":
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGINT)
    return float(completion == answer)
"""
# What each ends as: how it fails, and a part of what is said; None where it does not fail.
ENDS = {
    "loops": ("timeout", "took longer than timeout_s=2, in r.py line "),
    "holds the interpreter": ("timeout", "took longer than timeout_s=2"),
    "ignores signals": ("timeout", "took longer than timeout_s=2"),
    "exits": ("killed", "ended its process with exit code 3"),
    "exits as if all were well": ("killed", "ended its process with exit code 0"),
    "crashes": ("killed", "its process was ended by SIGSEGV, in r.py line "),
    "fills the memory": ("killed", "went past memory_gib=1 (MemoryError, in r.py line "),
    "recurses": ("raised", "RecursionError: maximum recursion depth exceeded"),
    "raises": ("raised", "ValueError: no"),
    "leaves by sys.exit": ("raised", "SystemExit: 0"),
    "is interrupted": ("killed", "its process was ended by SIGINT; it said last: KeyboardInterr"),
    "gives NaN": ("wrong_value", "ValueError: gave nan, which is not finite"),
    "gives text": ("wrong_value", "TypeError: gave '1.0', which is not a number"),
    "gives a list": ("wrong_value", "ValueError: gave 1 numbers for 3 tokens"),
    "reads": ("raised", "EOFError: EOF when reading a line"),
    "closes all files": ("timeout", "took longer than timeout_s=2"),
    "writes over the channel": ("killed", "answered"),
    "prints 10 MB": None,
    "sleeps": None,
    "forks": None,
    "comes back twice": None,
    "goes wrong later": None,
    "is told to end": None,
}


def scores_of(rubric, *groups):
    return [scored.scores for scored in rubric.score(groups)]


@pytest.mark.slow
@pytest.mark.parametrize("hostile", ENDS)
def test_a_hostile_completion_ends_within_its_limit_and_others_are_scored_as_if_alone(
    build, make_group, hostile
):
    rubric = build(HOSTILE, memory_gib=1)
    scores_of(rubric, make_group("7", "7"))
    started = time.monotonic()
    (scores,) = scores_of(rubric, make_group("7", hostile, "8", "7"))
    assert time.monotonic() - started < TIMEOUT_S + 1.5
    assert [each.total for each in scores] == [1.0, 0.0, 0.0, 1.0]
    assert [each.error for each in scores if each is not scores[1]] == [None] * 3
    if ENDS[hostile] is None:
        assert (scores[1].error, scores[1].failures) == (None, {})
    else:
        kind, said = ENDS[hostile]
        assert scores[1].failures == {"r": kind}
        assert f"reward 'r' failed on problem k1: {said}" in scores[1].error
        assert rubric.failures == {("r", kind): 1}
    time.sleep(0.1)
    (scores,) = scores_of(rubric, make_group("7", "8", "7", "8"))
    assert [each.total for each in scores] == [1.0, 0.0, 1.0, 0.0]


def test_a_call_whose_worker_an_earlier_call_broke_is_made_once_more(build, make_group):
    rubric = build(HOSTILE, num_workers=1)
    (scores,) = scores_of(rubric, make_group("7", "goes wrong later", "sleeps", "7"))
    assert [(each.total, each.error) for each in scores] == [
        *((1.0, None), (0.0, None), (0.0, None), (1.0, None))
    ]


def test_a_process_that_a_reward_forked_and_that_comes_back_ends_there(build, make_group, marked):
    rubric = build(HOSTILE, num_workers=1)
    scores_of(rubric, make_group("comes back twice"))
    deadline = time.monotonic() + 10
    while len(marked()) > 1 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(marked()) == 1


@pytest.mark.slow
def test_of_two_thousand_calls_none_is_lost_and_neither_processes_nor_files_grow(
    build, make_group, marked, left
):
    rubric = build(HOSTILE, timeout_s=1.0, num_workers=3)
    hostile = ["exits", "raises", "loops", "forks", "gives NaN", "goes wrong later", "crashes"]
    texts = [
        hostile[number // 20 % len(hostile)] if number % 20 == 0 else str(number % 3 + 6)
        for number in range(2000)
    ]
    this = psutil.Process()
    before = this.num_fds()
    scores, files, processes = [], [], []
    for start in range(0, 2000, 100):
        groups = [make_group(*texts[row : row + 10]) for row in range(start, start + 100, 10)]
        scores += [score for each in scores_of(rubric, *groups) for score in each]
        files.append(this.num_fds())
        processes.append(len(marked()))
    assert [score.total for score in scores] == [float(text == "7") for text in texts]
    failed = {"exits", "raises", "loops", "gives NaN", "crashes"}
    assert [score.error is not None for score in scores] == [text in failed for text in texts]
    assert rubric.num_failures["r"] == sum(text in failed for text in texts)
    assert max(files) <= before + 3 * 2  # A channel and what is printed, of each worker.
    assert max(processes) <= 3 * (1 + 9)  # A worker with more than 8 children is replaced.
    rubric.close()
    assert this.num_fds() == before
    assert left() == []
    assert [t.name for t in threading.enumerate() if t.name.startswith("rewards-")] == []
