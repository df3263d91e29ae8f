"""The training loop, as a table of contents."""

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from rl_llm.algorithms import Algorithm
from rl_llm.config import Recipe
from rl_llm.curriculum import Scheduler, dry_message
from rl_llm.errors import RunError
from rl_llm.kl import KLController, KLFacts
from rl_llm.policy import (
    PolicyEngine,
    Ranks,
    UpdateFacts,
    learning_rate,
    score_batch,
    train_groups,
)
from rl_llm.rollout import RolloutEngine
from rl_llm.seeds import derive_rng
from rl_llm.trainer import checkpoint
from rl_llm.trainer.critic_hint import CriticHint
from rl_llm.trainer.draws import draw_rows
from rl_llm.trainer.evaluate import Evaluation, Evaluator
from rl_llm.trainer.folder import RunFolder
from rl_llm.trainer.generation import Generation, Harvest
from rl_llm.trainer.metrics import (
    Counters,
    Row,
    Sink,
    evaluation_row,
    harvest_row,
    update_row,
)
from rl_llm.trainer.samples import evaluation_samples, training_samples, write_samples


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

    def said(self, message: str) -> None:
        """Something happened that a person should know."""
        ...


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What the loop drives; the command line puts it together."""

    recipe: Recipe
    folder: RunFolder
    identity: checkpoint.Identity
    algorithm: Algorithm
    scheduler: Scheduler
    generation: Generation
    reward_weights: Mapping[str, float]
    evaluator: Evaluator
    engine: RolloutEngine
    policy: PolicyEngine
    kl: KLController
    ranks: Ranks
    counters: Counters
    sinks: Sequence[Sink]
    draw_log: Sink | None
    watcher: Watcher

    @property
    def stateful(self) -> checkpoint.Stateful:
        """What a checkpoint holds the state of."""
        return checkpoint.Stateful(
            policy=self.policy, scheduler=self.scheduler, kl=self.kl, counters=self.counters
        )


class Trainer:
    """Runs a recipe from wherever its counters stand to its end."""

    def __init__(self, parts: Parts, *, stop_requested: Callable[[], bool] = lambda: False) -> None:
        """`stop_requested` is asked after every step; True ends the run behind a checkpoint."""
        self._parts = parts
        self._counters = parts.counters
        self._stop_requested = stop_requested
        self._seconds: dict[str, float] = {}
        self._said_short = False
        self._critic_hint = CriticHint()
        self._why_ended: str | None = None  # What a step found that ends the run with an error.

    @property
    def is_finished(self) -> bool:
        """Whether the last step is done, or `eval.stop_when` was reached."""
        return self._counters.finished or self._counters.step >= self._parts.recipe.run.steps

    def run(self) -> bool:
        """Train to the end; False if `stop_requested` ended the run early.

        Raises `RunError` behind the checkpoint of a step that had nothing to learn from, where
        `curriculum.refill.when_dry` says so; resumed from it, the run goes on with the next step.
        """
        self._publish()
        if self._counters.step == 0:
            self._write({"step": 0, **self._evaluate([])})
        while not self.is_finished:
            self._step()
            if not self.is_finished and self._must_stop():
                self._save()
                return False
        return True

    def take_one_step(self) -> Row:
        """Publish, take one step and return its row; nothing is evaluated, written or saved."""
        self._publish()
        row, _ = self._train_one_step()
        self._end_if_asked()
        return row

    def _step(self) -> None:
        """Take a step, and evaluate, write and save what is due; save the one that ends the
        run."""
        row, samples = self._train_one_step()
        if self._parts.ranks.is_main:
            self._parts.watcher.stepped(row)
        if self._is_due(self._parts.recipe.eval.every):
            row |= self._evaluate(samples)
        self._write(row | self._take_times())
        if self._why_ended is not None or self._is_due(self._parts.recipe.checkpoint.every):
            self._save()
        self._end_if_asked()

    def _train_one_step(self) -> tuple[Row, list[Row]]:
        """Generate, score, learn and publish; return the row so far, and sample completions."""
        parts, step = self._parts, self._counters.step + 1
        started = time.perf_counter()
        harvest = parts.generation.harvest(
            parts.scheduler, step, num_wanted=parts.recipe.rollout.problems_per_step
        )
        self._say(harvest)
        self._log_draws(harvest, step)
        with self._timed("update"):
            facts, row, samples = self._learn(harvest, step)
        self._tell([*self._without_advantage(harvest, facts), *self._critic_hint(facts)])
        self._counters.count(step, harvest)
        with self._timed("publish"):
            self._publish()
        row = {
            "step": step,
            "step_s": time.perf_counter() - started,
            **harvest_row(harvest, self._counters),
            **row,
            **parts.scheduler.metrics(step),
        }
        parts.kl.observe(_kl_facts(facts, row, parts.recipe))
        return row, samples

    def _learn(self, harvest: Harvest, step: int) -> tuple[UpdateFacts, Row, list[Row]]:
        """Update the policy on the admitted groups; return what happened, its row, and samples."""
        parts, recipe = self._parts, self._parts.recipe
        beta = parts.kl.beta
        lr = learning_rate(recipe.optim, step=step, total_steps=recipe.run.steps)
        advantages_PG = parts.algorithm.advantages(
            score_batch(
                harvest.admitted,
                weights=parts.reward_weights,
                max_response_tokens=recipe.rollout.max_new_tokens,
            )
        )
        facts = parts.policy.update(
            train_groups(
                harvest.admitted, advantages_PG, parts.algorithm, version=self._counters.step
            ),
            step=step,
            beta=beta,
            lr=lr,
            with_reference=parts.kl.needs_reference,
            rng=derive_rng(recipe.run.seed, "minibatches", step),
        )
        if facts.reference_refreshed:
            self._tell([f"reference refreshed: KL is to the policy of step {step} from now on"])
        row = update_row(
            facts,
            beta=beta,
            lr=lr,
            num_skipped=parts.policy.num_skipped,
            num_refreshed=self._num_refreshed(),
        )
        samples = training_samples(
            harvest.admitted, advantages_PG.tolist(), step=step, beliefs=harvest.beliefs
        )
        return facts, row, samples

    def _without_advantage(self, harvest: Harvest, facts: UpdateFacts) -> Iterator[str]:
        """Say so where gates admitted groups and none of them taught anything."""
        if harvest.admitted and facts.trained_tokens == 0:
            yield (
                f"nothing learnt: the {len(harvest.admitted)} groups that the gates admitted have "
                "no advantage, or no completion that is trained on; look at curriculum.gates, and "
                "at truncated completions"
            )

    def _num_refreshed(self) -> int | None:
        """Return how often the reference was refreshed; None for one that never is."""
        is_snapshot = self._parts.recipe.kl.reference.mode == "snapshot"
        return self._parts.policy.reference.num_refreshed if is_snapshot else None

    def _publish(self) -> None:
        """Hand the adapter to the rollout engine as the next version."""
        with tempfile.TemporaryDirectory(prefix="rl-llm-adapter-") as folder:
            self._parts.policy.save_adapter(Path(folder))
            self._parts.engine.load_weights(Path(folder), version=self._counters.step)

    def _evaluate(self, samples: list[Row]) -> Row:
        """Evaluate, write samples, and return the row's part; empty without held-out problems."""
        parts, step = self._parts, self._counters.step
        row: Row = {}
        if parts.evaluator.has_problems:
            evaluation = parts.evaluator(step)
            row = evaluation_row(evaluation)
            if parts.recipe.curriculum.learn_from_eval:
                parts.scheduler.observe_evaluation(evaluation.scored_train, step=step)
            samples = evaluation_samples(evaluation.scored, step=step) + samples
            parts.policy.reference.observe_evaluation(evaluation.overall.mean)
            threshold = parts.recipe.eval.stop_when
            if threshold is not None and evaluation.overall.mean >= threshold and step > 0:
                self._counters.finished = True
            if parts.ranks.is_main:
                parts.watcher.evaluated(step, evaluation)
        if parts.ranks.is_main:
            write_samples(parts.folder.samples(step), samples)
            parts.watcher.sampled(samples)
        return row

    def _save(self) -> None:
        parts = self._parts
        with self._timed("checkpoint"):
            if parts.ranks.is_main:
                checkpoint.save(
                    parts.folder.checkpoints,
                    parts.stateful,
                    parts.identity,
                    keep=parts.recipe.checkpoint.keep,
                )
            parts.ranks.wait()

    def _write(self, row: Row) -> None:
        if self._parts.ranks.is_main:
            for sink in self._parts.sinks:
                sink.write(row)

    def _say(self, harvest: Harvest) -> None:
        """Say what the scheduler noticed; that a step has nothing to learn from is said, or kept
        for the end of the step, as `curriculum.refill.when_dry` wants."""
        messages = self._parts.scheduler.take_messages()
        when_dry = self._parts.recipe.curriculum.refill.when_dry
        if not harvest.admitted:
            dry = dry_message(harvest.scored, when_dry=when_dry)
            if when_dry == "stop":
                self._why_ended = dry
            else:
                messages.append(dry)
        messages += self._short_responses(harvest)
        self._tell(messages)

    def _tell(self, messages: Sequence[str]) -> None:
        if self._parts.ranks.is_main:
            for message in messages:
                self._parts.watcher.said(message)

    def _end_if_asked(self) -> None:
        """End the run, every rank alike, with what the step found."""
        if self._why_ended is not None:
            raise RunError(self._why_ended)

    def _short_responses(self, harvest: Harvest) -> list[str]:
        """Return what is to be said of responses that are too short for the critic's lambda."""
        rules = self._parts.algorithm.critic
        lengths = [len(c.token_ids) for group in harvest.scored for c in group.group.completions]
        if rules is None or not lengths or self._said_short:
            return []
        mean = sum(lengths) / len(lengths)
        if mean >= rules.warn_below_tokens:
            return []
        self._said_short = True
        return [
            f"algorithm.length_adaptive: responses of {mean:.0f} tokens on average get a lambda of "
            f"{max(0.0, 1 - 20 / mean):.2f}; it is made for {rules.warn_below_tokens} or more: use "
            "algorithm.lambda_policy instead"
        ]

    def _log_draws(self, harvest: Harvest, step: int) -> None:
        if self._parts.draw_log is not None:
            for row in draw_rows(harvest, step=step):
                self._parts.draw_log.write(row)

    def _is_due(self, every: int) -> bool:
        return self.is_finished or self._counters.step % every == 0

    def _must_stop(self) -> bool:
        """Ask every rank, so that all of them stop behind the same step."""
        return any(self._parts.ranks.gather([self._stop_requested()]))

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self._seconds[stage] = time.perf_counter() - started

    def _take_times(self) -> Row:
        """Return `time/<stage>_s` of what has run since the last row."""
        times = {f"time/{stage}_s": seconds for stage, seconds in self._seconds.items()}
        self._seconds = {}
        return times


def _kl_facts(facts: UpdateFacts, row: Row, recipe: Recipe) -> KLFacts:
    """Return what the controller may learn: nothing from a policy that stood still while the critic
    learnt. NaN is what was not measured."""
    return KLFacts(
        ref_nats_per_token=facts.ref_nats_per_token,
        ref_nats_per_response=facts.ref_nats_per_response,
        old_nats_per_token=facts.old_nats_per_token,
        old_nats_per_response=facts.old_nats_per_response,
        against=recipe.kl.against,
        trained_tokens=facts.trained_tokens if facts.policy_learns else 0,
        reference_refreshed=facts.reference_refreshed,
        accuracy=row["train/pass_rate"],
        step=row["step"],
        total_steps=recipe.run.steps,
    )
