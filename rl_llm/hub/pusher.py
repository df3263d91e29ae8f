"""Pushes behind a run: one after the other in a thread, with patience, and never in the run's
way."""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from rl_llm.errors import PushFailed, PushRefused
from rl_llm.hub.attempt import Attempt
from rl_llm.hub.job import Job, Outcome

_LOOK_EVERY_S = 0.2
_UNWIND_S = 5.0


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How long is waited between attempts: twice as long each time, or what the hub asks for.

    Behind a run, a push is tried again for as long as the run lasts, unless it is refused. At the
    end everything is tried, what was refused too, `end_tries` times; once one push has failed as
    often, the others are tried once.
    """

    first_s: float = 5.0
    most_s: float = 600.0
    end_first_s: float = 1.0
    end_tries: int = 4


@dataclass(kw_only=True, eq=False)
class Push:
    """A job on its way; `name` is what people call it, `command` what pushes it by hand."""

    name: str
    job: Job
    command: str
    on_done: Callable[[], None] = lambda: None
    outcome: Outcome | None = None
    num_failed: int = 0
    not_before_s: float = 0.0
    is_given_up: bool = field(default=False)

    @property
    def fault(self) -> str:
        """Why it is not done."""
        return "it was not tried yet" if self.outcome is None else self.outcome.fault


class Pusher:
    """Pushes in the background; ask `take_messages` now and then what there is to say."""

    def __init__(self, *, limit_s: float, patience: Patience | None = None) -> None:
        """`limit_s` bounds every attempt, and what `finish` waits."""
        self._limit_s = limit_s
        self._patience = patience or Patience()
        self._changed = threading.Condition()
        self._waiting: list[Push] = []
        self._messages: list[str] = []
        self._said: set[str] = set()
        self._attempt: Attempt | None = None
        self._under_way: Push | None = None
        self._thread: threading.Thread | None = None
        self._end_at_s: float | None = None  # By the monotonic clock; None until `finish`.
        self._has_given_up = False
        self._is_closed = False

    def add(self, push: Push) -> None:
        """Push this behind what waits already; one of the same name takes the other's place."""
        with self._changed:
            self._waiting = [each for each in self._waiting if each.name != push.name]
            self._waiting.append(push)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="hub", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def drop_oldest(self) -> Push | None:
        """Forget what has waited longest and is not under way, and return it."""
        with self._changed:
            idle = [push for push in self._waiting if push is not self._under_way]
            for push in idle[:1]:
                self._waiting.remove(push)
                return push
        return None

    def take_messages(self) -> list[str]:
        """Return what happened since the last time, each kind of fault once."""
        with self._changed:
            messages, self._messages = self._messages, []
        return messages

    def left(self) -> Sequence[Push]:
        """Return what is not pushed."""
        with self._changed:
            return list(self._waiting)

    def finish(self) -> Sequence[Push]:
        """Try what waits until it is pushed, given up or out of time; return what is left."""
        with self._changed:
            self._end_at_s = time.monotonic() + self._limit_s
            for push in self._waiting:
                push.num_failed, push.not_before_s = 0, 0.0
            self._changed.notify_all()
            while time.monotonic() < self._end_at_s:
                if all(push.is_given_up for push in self._waiting):
                    break
                self._changed.wait(_LOOK_EVERY_S)
        self.close()
        return self.left()

    def close(self) -> None:
        """Stop at once, in the middle of an attempt too; what waits stays in `left`."""
        with self._changed:
            self._is_closed = True
            if self._attempt is not None:
                self._attempt.stop()
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(timeout=_UNWIND_S)

    def _work(self) -> None:
        while (push := self._next()) is not None:
            self._note(push, self._try(push))

    def _next(self) -> Push | None:
        """Wait for a push whose time has come; None once this is closed."""
        with self._changed:
            while not self._is_closed:
                now_s = time.monotonic()
                for push in self._waiting:
                    if push.not_before_s <= now_s and not push.is_given_up:
                        self._under_way = push
                        return push
                self._changed.wait(_LOOK_EVERY_S)
        return None

    def _try(self, push: Push) -> Outcome:
        left_s = self._limit_s
        if self._end_at_s is not None:
            left_s = max(self._end_at_s - time.monotonic(), _LOOK_EVERY_S)
        try:
            attempt = Attempt(push.job, limit_s=left_s, is_behind=True)
        except OSError as error:  # No room for another process, for one.
            return Outcome(fault=f"no process could be started to push: {error}")
        with self._changed:
            self._attempt = attempt
            if self._is_closed:
                attempt.stop()
        outcome = attempt.outcome()
        with self._changed:
            self._attempt = None
        return outcome

    def _note(self, push: Push, outcome: Outcome) -> None:
        with self._changed:
            self._under_way = None
            if self._is_closed and not outcome.is_done:
                push.outcome = push.outcome or Outcome(fault="stopped while it was under way")
                return
            push.outcome = outcome
            is_replaced = all(each is not push for each in self._waiting)
            if outcome.is_done:
                # One that was replaced meanwhile is another push, and stays with what it needs.
                self._waiting = [each for each in self._waiting if each is not push]
                self._said.clear()
                self._messages.append(pushed_line(push.name, outcome, push.job))
            else:
                self._plan(push, outcome)
            self._changed.notify_all()
        if outcome.is_done and not is_replaced:
            push.on_done()

    def _plan(self, push: Push, outcome: Outcome) -> None:
        """Say when a push that failed is tried again, if at all."""
        push.num_failed += 1
        if self._end_at_s is None:
            kind = outcome.kind or outcome.fault
            if kind not in self._said:
                again = (
                    "once more at the end" if outcome.refused else "again while training goes on"
                )
                self._messages.append(f"not pushed: {push.name}: {outcome.fault}; tried {again}")
                self._said.add(kind)
            wait_s = _wait_s(
                outcome, self._patience.first_s, self._patience.most_s, push.num_failed
            )
            push.not_before_s = float("inf") if outcome.refused else time.monotonic() + wait_s
            return
        tries = 1 if self._has_given_up else self._patience.end_tries
        wait_s = _wait_s(outcome, self._patience.end_first_s, self._limit_s, push.num_failed)
        push.not_before_s = time.monotonic() + wait_s
        is_late = push.not_before_s >= self._end_at_s
        push.is_given_up = outcome.refused or is_late or push.num_failed >= tries
        if push.is_given_up and not outcome.refused:
            self._has_given_up = True
            for other in self._waiting:
                other.is_given_up |= other.num_failed > 0


def push_now(
    job: Job,
    *,
    say: Callable[[str], None],
    patience: Patience | None = None,
    shows_progress: bool = False,
) -> Outcome:
    """Push while somebody waits for it, with a few attempts; `say` hears why there is another one.

    Raises `PushRefused` where the hub says no, and `PushFailed` behind the last attempt.
    """
    patience = patience or Patience()
    for num_failed in range(1, patience.end_tries + 1):
        attempt = Attempt(job, limit_s=None, is_behind=False, shows_progress=shows_progress)
        outcome = attempt.outcome()
        if outcome.is_done:
            return outcome
        if outcome.refused:
            raise PushRefused(outcome.fault)
        wait_s = _wait_s(outcome, patience.end_first_s, patience.most_s, num_failed)
        if num_failed < patience.end_tries and outcome.retry_after_s <= patience.most_s:
            say(f"{outcome.fault}; trying again in {wait_s:g} s")
            time.sleep(wait_s)
        else:
            break
    raise PushFailed(
        f"{job.repo_id}: not pushed: {outcome.fault}; run the same command again later"
    )


def pushed_line(name: str, outcome: Outcome, job: Job) -> str:
    """Return what is said of a push that is done, and of a repository that existed and stays
    private."""
    seen = "private" if outcome.is_private else "public"
    if outcome.is_private and not job.private:
        seen = "private, as the repository was: its settings on the hub make it public"
    return f"pushed {name}: {outcome.url} ({seen})"


def _wait_s(outcome: Outcome, first_s: float, most_s: float, num_failed: int) -> float:
    """Return how long to wait behind the nth failure; what the hub asks for is never shortened."""
    doubled: float = min(first_s * 2.0 ** min(num_failed - 1, 30), most_s)
    return max(doubled, outcome.retry_after_s)
