"""What a worker process runs: calls of rewards, one at a time, until its trainer has ended."""

import faulthandler
import os
import pickle
import resource
import select
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import FrameType

from rl_llm.plugins import keep
from rl_llm.records import Group
from rl_llm.scoring.frames import answer, outcomes_to_json, wait_for_frame
from rl_llm.scoring.reward import (
    Failure,
    Outcome,
    Reward,
    call_reward,
    described,
    get_ready,
    load_reward,
)

LOAD_LIMIT_S = 120.0
"""How long a worker may take to load a reward's file, at least; the first call waits for it."""

TRACE_SIGNAL = signal.SIGUSR1
"""Has a worker write where it is, before it is ended."""

_ASYNC_GRACE_S = 0.5
_CPU_GRACE_S = 1.0
_MAX_CHILDREN = 8


def load_limit_s(reward: Reward) -> float:
    """Return how long a worker may take to load the file of a reward and have it get ready."""
    return max(LOAD_LIMIT_S, reward.timeout_s)


def hard_limit_s(reward: Reward) -> float:
    """Return when the process of a call is ended; what an `async` reward waits for is cancelled
    before that."""
    return reward.timeout_s + (_ASYNC_GRACE_S if reward.is_async else 0.0)


def serve(descriptor: int) -> None:
    """Answer what the trainer asks over a socket, and end, with all processes that rewards have
    started, when the trainer is gone."""
    channel = socket.socket(fileno=descriptor)
    owner = os.getpid()
    faulthandler.enable()
    faulthandler.register(TRACE_SIGNAL, chain=False)
    _stay_through_signals(owner)
    _be_the_first_to_go()
    watch = threading.Thread(target=_end_with_trainer, args=(descriptor,), daemon=True)
    watch.start()
    loaded: set[str] = set()
    channel.sendall(answer(job=0))
    while (body := wait_for_frame(channel)) is not None:
        _serve_one(channel, body, loaded)
        if os.getpid() != owner:  # A reward has forked, and both returned.
            os._exit(0)
    _end_group()


def _serve_one(channel: socket.socket, body: bytes, loaded: set[str]) -> None:
    """Load the reward and have it get ready, say so where it was not loaded before, and answer with
    what it gave."""
    owner = os.getpid()
    job = int.from_bytes(body[:8], "big")
    reward, options, pickled_group = pickle.loads(body[8:])
    _limit_cpu(load_limit_s(reward))
    try:
        is_new = reward.reference not in loaded
        if is_new:
            _load(reward)
        reward = replace(reward, options=pickle.loads(options))
        if is_new:
            if reward.gets_ready:
                get_ready(reward)
            loaded.add(reward.reference)
            channel.sendall(answer(job=job))
        group = pickle.loads(pickled_group)
    except Exception as error:  # The file and the problem's columns are somebody else's code.
        channel.sendall(answer(job=job, error=described(error)))
        return
    _limit_cpu(hard_limit_s(reward))
    outcomes = _call(reward, group)
    if os.getpid() != owner:
        return
    _limit_cpu(0.0)
    is_spent = any(isinstance(each, Failure) and each.kind == "killed" for each in outcomes)
    channel.sendall(
        answer(
            job=job,
            outcomes=outcomes_to_json(outcomes),
            is_spent=is_spent or _num_children() > _MAX_CHILDREN,
        )
    )


def _load(reward: Reward) -> None:
    if reward.source is not None:
        keep(Path(reward.file), reward.source)
    load_reward(reward.reference)


def _limit_cpu(limit_s: float) -> None:
    """Have the system end this process after so long on all cores; 0 sets no limit.

    The trainer ends a call long before. Where the trainer has ended, this ends one that holds the
    interpreter, so that no thread can watch.
    """
    cores = os.cpu_count() or 1
    signal.setitimer(signal.ITIMER_PROF, (limit_s + _CPU_GRACE_S) * cores if limit_s else 0.0)


def _call(reward: Reward, group: Group) -> list[Outcome]:
    if reward.memory_gib is None:
        return call_reward(reward, group)
    with _memory_limited(reward.memory_gib):
        outcomes = call_reward(reward, group)
    return [_blame_the_limit(each, reward.memory_gib) for each in outcomes]


@contextmanager
def _memory_limited(gib: float) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = int(gib * 2**30)
    if soft != resource.RLIM_INFINITY:
        limit = min(limit, soft)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _blame_the_limit(outcome: Outcome, gib: float) -> Outcome:
    if isinstance(outcome, Failure) and outcome.message.startswith("MemoryError"):
        return Failure(f"went past memory_gib={gib:g} ({outcome.message})", kind="killed")
    return outcome


def _num_children() -> int:
    """Return how many processes that rewards have started are there still, where the system is
    Linux."""
    if sys.platform != "linux":
        return 0
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return 0
    count = 0
    for file in Path("/proc/self/task").glob("*/children"):
        with suppress(OSError):  # The thread has just ended.
            count += len(file.read_text(encoding="ascii").split())
    return count


def _stay_through_signals(owner: int) -> None:
    """Leave signals that are meant for the whole run to the trainer; processes that a reward forks
    obey them."""

    def obey(number: int, _frame: FrameType | None) -> None:
        if os.getpid() != owner:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, obey)


def _be_the_first_to_go() -> None:
    """Have the system end this process before the trainer when memory runs out."""
    if sys.platform == "linux":
        with suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")


def _end_with_trainer(descriptor: int) -> None:
    poll = select.poll()
    poll.register(descriptor, 0)  # Nothing but that the other end is closed.
    poll.poll()
    _end_group()


def _end_group() -> None:
    os.killpg(0, signal.SIGKILL)
