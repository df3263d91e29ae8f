"""What the loop drives, and who hears of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from rl_llm.algorithms import Algorithm
from rl_llm.config import Recipe
from rl_llm.curriculum import Scheduler
from rl_llm.kl import KLController
from rl_llm.policy import PolicyEngine, Ranks
from rl_llm.rollout import RolloutEngine
from rl_llm.trainer import checkpoint
from rl_llm.trainer.alarms import Alarms
from rl_llm.trainer.evaluate import Evaluation, Evaluator
from rl_llm.trainer.folder import RunFolder
from rl_llm.trainer.generation import Generation
from rl_llm.trainer.identity import Identity
from rl_llm.trainer.metrics import Counters, Row, Sink
from rl_llm.trainer.pending import Pending


class Watcher(Protocol):
    """Who hears what happens, on rank 0."""

    def stepped(self, row: Row) -> None:
        """A step was taken; `row` is what metrics.jsonl will say, less the evaluation."""
        ...

    def evaluated(self, step: int, evaluation: Evaluation) -> None:
        """Held-out problems were evaluated after `step`."""
        ...

    def sampled(self, samples: Sequence[Row]) -> None:
        """Sample completions were written."""
        ...

    def saved(self, checkpoint: Path) -> None:
        """A checkpoint was written; what is done about it must not fail the run."""
        ...

    def said(self, message: str) -> None:
        """Something happened that a person should know."""
        ...


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What the loop drives; the command line puts it together."""

    recipe: Recipe
    folder: RunFolder
    identity: Identity
    algorithm: Algorithm
    scheduler: Scheduler
    generation: Generation
    reward_weights: Mapping[str, float]
    evaluator: Evaluator
    engine: RolloutEngine
    policy: PolicyEngine
    kl: KLController
    alarms: Alarms
    ranks: Ranks
    counters: Counters
    sinks: Sequence[Sink]
    draw_log: Sink | None
    evaluation_log: Sink | None
    watcher: Watcher
    pending: Pending = field(default_factory=Pending)

    @property
    def last_row(self) -> int:
        """The last step whose metrics and evaluation are written; -1 before the first."""
        if self.counters.step == 0:
            return -1
        return self.counters.step - (self.pending.unfinished is not None)

    @property
    def stateful(self) -> checkpoint.Stateful:
        """What a checkpoint holds the state of."""
        return checkpoint.Stateful(
            policy=self.policy,
            scheduler=self.scheduler,
            kl=self.kl,
            counters=self.counters,
            pending=self.pending,
        )
