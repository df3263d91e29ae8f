"""Requests in, scored groups out, in the order of the requests, over all ranks."""

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rl_llm.curriculum import Scheduler
from rl_llm.curriculum.draw_record import Draw
from rl_llm.errors import EngineLost, RunError
from rl_llm.policy import Ranks
from rl_llm.records import Group, Request, ScoredGroup
from rl_llm.rollout import RolloutEngine
from rl_llm.scoring import Rubric


@dataclass(frozen=True, kw_only=True)
class Harvest:
    """What the rollouts of one step brought.

    `scored` holds every group that was generated, and `draws`, in the same order, why and under
    which belief. `admitted` ones are learnt from, `dropped` ones are not. With probes, a group is
    generated in two parts, both in `scored`, and admitted or dropped as a whole when it is
    complete.
    """

    scored: tuple[ScoredGroup, ...]
    draws: tuple[Draw, ...]
    admitted: tuple[ScoredGroup, ...]
    dropped: tuple[ScoredGroup, ...]
    num_rounds: int
    generate_s: float
    score_s: float

    @property
    def concluded(self) -> tuple[ScoredGroup, ...]:
        """The groups whose fate the step decided."""
        return (*self.admitted, *self.dropped)

    @property
    def judged(self) -> tuple[ScoredGroup, ...]:
        """The groups of which the step saw for the first time whether they are mixed: whole ones
        and probes, but not what finishes probes, which is asked for only where those are mixed."""
        pairs = zip(self.scored, self.draws, strict=True)
        return tuple(group for group, draw in pairs if draw.why != "finish")

    @property
    def beliefs(self) -> dict[str, float]:
        """The pass rate that was believed of a problem, by key, when it was last drawn."""
        return {draw.key: draw.belief_a / (draw.belief_a + draw.belief_b) for draw in self.draws}


class Generation:
    """Generates and scores; every rank serves its share and hears the whole."""

    def __init__(
        self,
        engine: RolloutEngine,
        rubric: Rubric,
        ranks: Ranks,
        *,
        tell: Callable[[ScoredGroup], None] = lambda group: None,
    ) -> None:
        """Start with both clocks at zero. `tell` hears of each group of this rank as it is
        scored."""
        self._engine = engine
        self._rubric = rubric
        self._ranks = ranks
        self._tell = tell
        self._is_cut = threading.Event()
        self.generate_s = 0.0
        self.score_s = 0.0

    def use_channel(self) -> None:
        """Speak to other ranks over a channel of its own from now on, for use in a second thread;
        every rank calls it at the same point."""
        self._ranks = self._ranks.channel()

    def __call__(self, requests: Sequence[Request]) -> list[ScoredGroup]:
        """Return one scored group per request, in their order; no two may ask for one problem.

        Raises `EngineLost` on every rank when one has lost its engine.
        """
        mine = self._ranks.mine(requests)
        scored: dict[str, ScoredGroup] = {}
        with self._lost_together():
            started = time.perf_counter()
            waiting = _Stopwatch(self._engine.complete(mine), self._is_cut)
            for group in self._rubric.score(waiting):
                scored[group.group.problem.key] = group
                self._tell(group)
            self.generate_s += waiting.elapsed_s
            self.score_s += time.perf_counter() - started - waiting.elapsed_s
        return self._ranks.gather([scored[request.problem.key] for request in mine])

    def load_weights(self, adapter_dir: Path, *, version: int) -> None:
        """Hand an adapter to every rank's engine; raises `EngineLost` on every rank alike."""
        with self._lost_together():
            self._engine.load_weights(adapter_dir, version=version)

    def rest(self) -> None:
        """Let every rank's engine give memory back; raises `EngineLost` on every rank alike."""
        with self._lost_together():
            self._engine.rest()

    @property
    def may_be_lost(self) -> bool:
        """Whether the engine may raise `EngineLost`."""
        return self._engine.may_be_lost

    def take_messages(self) -> list[str]:
        """Return what the engines of all ranks have to say since the last call, each once."""
        return list(dict.fromkeys(self._ranks.gather(self._engine.take_messages())))

    def cut(self) -> None:
        """From another thread: end what is being scored, and what is being generated at its next
        group at the latest, for good."""
        self._is_cut.set()
        self._engine.cut()
        self._rubric.close()

    @contextmanager
    def failing_together(self) -> Iterator[None]:
        """End every rank with an error that the others do not share, and would wait for."""
        try:
            yield
        except (EngineLost, CancelledError):  # Every rank loses it; the main thread has its own.
            raise
        except BaseException as error:
            self._ranks.tell_of(error)
            raise

    @contextmanager
    def _lost_together(self) -> Iterator[None]:
        """Raise `EngineLost` on every rank when one has raised it, so that none waits for it."""
        lost = ""
        try:
            yield
        except EngineLost as error:
            if self._ranks.num_ranks == 1:
                raise
            lost = str(error)
        if any(messages := self._ranks.gather([lost])):
            raise EngineLost(next(filter(None, messages)))

    def harvest(self, scheduler: Scheduler, step: int, *, num_wanted: int) -> Harvest:
        """Generate a step's groups, and refill what the gates dropped within the scheduler's
        bounds."""
        self.generate_s = self.score_s = 0.0
        scored: list[ScoredGroup] = []
        draws: list[Draw] = []
        admitted: list[ScoredGroup] = []
        dropped: list[ScoredGroup] = []
        num_rounds = 0
        requests = self._ranks.from_main(scheduler.plan(step))
        while requests:
            groups = self(requests)
            scored += groups
            draws += scheduler.observe(groups, step=step)
            ended = scheduler.conclude(groups)
            admitted += ended.finished
            dropped += ended.dropped
            num_rounds += 1
            missing = num_wanted - len(admitted)
            requests = self._ranks.from_main(
                scheduler.refill(step, round=num_rounds, num_missing=missing)
            )
        refuse_unscored(scored)
        return Harvest(
            scored=tuple(scored),
            draws=tuple(draws),
            admitted=tuple(admitted),
            dropped=tuple(dropped),
            num_rounds=num_rounds,
            generate_s=self.generate_s,
            score_s=self.score_s,
        )


def refuse_unscored(groups: Sequence[ScoredGroup]) -> None:
    """Stop a run whose rewards fail on all of a step or an evaluation: there is nothing to learn
    from or to measure."""
    scores = [score for group in groups for score in group.scores]
    if scores and all(score.error is not None for score in scores):
        raise RunError(
            f"none of {len(scores)} completions could be scored; the first failure: "
            f"{scores[0].error}; mend the reward, and try it on one step with "
            "`rl-llm validate RECIPE --dry-run`"
        )


class _Stopwatch:
    """Passes groups on until it is cut, and adds up the time spent waiting for them."""

    def __init__(self, groups: Iterable[Group], is_cut: threading.Event) -> None:
        self._groups = iter(groups)
        self._is_cut = is_cut
        self.elapsed_s = 0.0

    def __iter__(self) -> Iterator[Group]:
        while True:
            if self._is_cut.is_set():
                raise CancelledError
            started = time.perf_counter()
            group = next(self._groups, None)
            self.elapsed_s += time.perf_counter() - started
            if group is None:
                return
            yield group
