"""The training loop, as a table of contents."""

import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rl_llm.config import Recipe
from rl_llm.errors import EngineLost, RunError, StorageError
from rl_llm.kl import KLFacts
from rl_llm.policy import (
    UpdateFacts,
    check_advantages,
    learning_rate,
    score_batch,
    train_groups,
)
from rl_llm.seeds import derive_rng
from rl_llm.trainer import checkpoint
from rl_llm.trainer.draws import draw_rows
from rl_llm.trainer.generation import Harvest
from rl_llm.trainer.metrics import (
    Row,
    Sink,
    evaluation_row,
    evaluation_rows,
    harvest_row,
    iter_rows,
    update_row,
)
from rl_llm.trainer.parts import Parts
from rl_llm.trainer.pending import HarvestReport, UnfinishedStep
from rl_llm.trainer.pipeline import Overlap, Pipeline
from rl_llm.trainer.remarks import Remarks
from rl_llm.trainer.samples import evaluation_samples, training_samples, write_samples

AGAIN = "run the same command again"


class Trainer:
    """Runs a recipe from wherever its counters stand to its end."""

    def __init__(
        self,
        parts: Parts,
        *,
        stop_requested: Callable[[], bool] = lambda: False,
        again: str = AGAIN,
    ) -> None:
        """`stop_requested` is asked after every step; True ends the run behind a checkpoint.
        `again` tells a person how to go on from the newest one."""
        self._parts = parts
        self._counters = parts.counters
        self._stop_requested = stop_requested
        self._again = again
        self._seconds: dict[str, float] = {}
        self._remarks = Remarks(parts.recipe, parts.algorithm)
        self._overlaps = parts.recipe.rollout.max_staleness > 0
        self._why_ended: str | None = None  # What a step found that ends the run with an error.

    @property
    def is_finished(self) -> bool:
        """Whether the last step is done, or `eval.stop_when` was reached."""
        return self._counters.finished or self._counters.step >= self._parts.recipe.run.steps

    def run(self) -> bool:
        """Train to the end; False if `stop_requested` ended the run early.

        Raises `RunError` behind the checkpoint of a step that had nothing to learn from, where
        `curriculum.refill.when_dry` says so, and `EngineLost` behind a checkpoint when nothing
        generates any more; resumed from it, the run goes on with the next step.
        """
        recipe = self._parts.recipe
        with self._pipeline(recipe.rollout.max_staleness, last_step=recipe.run.steps) as rollouts:
            try:
                return self._run(rollouts)
            except EngineLost as lost:
                raise self._save_what_is_left(lost, rollouts) from lost

    def take_one_step(self) -> Row:
        """Publish, take one step and return its row; nothing is evaluated, written or saved, and
        nothing is generated for later steps."""
        with self._pipeline(0, last_step=self._counters.step + 1) as rollouts:
            self._publish(rollouts)
            row, _ = self._train_one_step(rollouts)
            rollouts.finish()
        self._end_if_asked()
        return row

    def _pipeline(self, max_staleness: int, *, last_step: int) -> Pipeline:
        parts = self._parts
        return Pipeline(
            generation=parts.generation,
            scheduler=parts.scheduler,
            evaluator=parts.evaluator,
            pending=parts.pending,
            overlap=Overlap(
                max_staleness=max_staleness, last_step=last_step, in_thread=self._overlaps
            ),
            num_wanted=parts.recipe.curriculum.refill.num_enough(
                parts.recipe.rollout.problems_per_step
            ),
            device=parts.ranks.device,
        )

    def _run(self, rollouts: Pipeline) -> bool:
        """Start, or go on from a checkpoint, and take step after step."""
        unfinished = self._parts.pending.unfinished
        if self._counters.step > 0:
            rollouts.catch_up(self._counters.step)
            self._recall(last_step=self._parts.last_row)
        self._publish(rollouts)
        self._tell(rollouts.take_messages())
        if self._counters.step == 0:
            row = self._evaluate([], rollouts)
            self._write({"step": 0, **row, **self._watch({"step": 0, **row}, [])})
            self._tell(self._remarks.of_start(row))
        if unfinished is not None:
            self._finish_step(unfinished, rollouts)
        while not self.is_finished:
            row, samples = self._train_one_step(rollouts)
            if self._parts.ranks.is_main:
                self._parts.watcher.stepped(row)
            step = UnfinishedStep(row=row, samples=samples, why_ended=self._why_ended)
            is_saved = self._finish_step(step, rollouts)
            if not self.is_finished and self._must_stop():
                if not is_saved:
                    self._save(rollouts)
                return False
        rollouts.finish()
        return True

    def _finish_step(self, step: UnfinishedStep, rollouts: Pipeline) -> bool:
        """Evaluate, write and save what is due behind a step; save the one that ends the run.
        Return whether it was saved."""
        row, self._why_ended = step.row, step.why_ended
        if self._is_due(self._parts.recipe.eval.every):
            self._parts.pending.unfinished = step
            row = row | self._evaluate(step.samples, rollouts)
        self._parts.pending.unfinished = None
        row = row | self._watch(row, step.samples)
        self._write(row | self._take_times())
        self._tell(rollouts.take_messages())
        is_saved = self._why_ended is not None or self._is_due(self._parts.recipe.checkpoint.every)
        if is_saved:
            self._save(rollouts)
        self._end_if_asked()
        return is_saved

    def _train_one_step(self, rollouts: Pipeline) -> tuple[Row, list[Row]]:
        """Generate, score, learn and publish; return the row so far, and sample completions."""
        parts, step = self._parts, self._counters.step + 1
        started = time.perf_counter()
        report = rollouts.take(step)
        harvest = report.harvest
        self._seconds |= rollouts.take_times()
        self._say(report)
        self._log(draw_rows(harvest, step=step), parts.draw_log)
        with self._timed("update"):
            facts, row, samples = self._learn(harvest, step)
        self._tell(self._remarks.of_update(harvest, facts, step=step))
        self._counters.count(step, harvest)
        with self._timed("publish"):
            self._publish(rollouts)
        row = {
            "step": step,
            "step_s": time.perf_counter() - started,
            **harvest_row(harvest, self._counters),
            **row,
            **report.metrics,
        }
        parts.kl.observe(_kl_facts(facts, row, parts.recipe))
        return row, samples

    def _learn(self, harvest: Harvest, step: int) -> tuple[UpdateFacts, Row, list[Row]]:
        """Update the policy on the admitted groups; return what happened, its row, and samples."""
        parts, recipe = self._parts, self._parts.recipe
        beta = parts.kl.beta
        lr = learning_rate(recipe.optim, step=step, total_steps=recipe.run.steps)
        scored = score_batch(
            harvest.admitted,
            weights=parts.reward_weights,
            max_response_tokens=recipe.rollout.max_new_tokens,
        )
        advantages_PG = check_advantages(
            parts.algorithm.advantages(scored), scored, name=recipe.algorithm.name
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
        row = update_row(
            facts,
            beta=beta,
            lr=lr,
            num_skipped=parts.policy.num_skipped,
            num_refreshed=self._num_refreshed(),
        )
        samples = training_samples(
            harvest.admitted,
            # With a critic, every token has an advantage of its own.
            advantages_PG.tolist() if parts.algorithm.critic is None else None,
            step=step,
            beliefs=harvest.beliefs,
            dropped=harvest.dropped,
        )
        return facts, row, samples

    def _num_refreshed(self) -> int | None:
        """Return how often the reference was refreshed; None for one that never is."""
        is_snapshot = self._parts.recipe.kl.reference.mode == "snapshot"
        return self._parts.policy.reference.num_refreshed if is_snapshot else None

    def _publish(self, rollouts: Pipeline) -> None:
        """Hand the adapter to the rollout engine as the next version."""
        rollouts.publish(self._parts.policy.save_adapter, version=self._counters.step)

    def _evaluate(self, samples: list[Row], rollouts: Pipeline) -> Row:
        """Evaluate, write samples, and return the row's part; empty without held-out problems."""
        parts, step = self._parts, self._counters.step
        row: Row = {}
        if parts.evaluator.has_problems:
            evaluation = rollouts.evaluate(step, teach=parts.recipe.curriculum.learn_from_eval)
            row = evaluation_row(evaluation)
            self._log(evaluation_rows(evaluation, step=step), parts.evaluation_log)
            samples = evaluation_samples(evaluation.scored, step=step) + samples
            parts.policy.reference.observe_evaluation(evaluation.overall.mean)
            threshold = parts.recipe.eval.stop_when
            if threshold is not None and evaluation.overall.mean >= threshold and step > 0:
                self._counters.finished = True
            if parts.ranks.is_main:
                parts.watcher.evaluated(step, evaluation)
        parts.ranks.on_main(lambda: write_samples(parts.folder.samples(step), samples))
        if parts.ranks.is_main:
            parts.watcher.sampled(samples)
        return row

    def _save(self, rollouts: Pipeline) -> None:
        parts = self._parts
        with self._timed("checkpoint"):
            rollouts.drain(self._counters.step)
            with parts.policy.gathered():
                saved = parts.ranks.on_main(self._write_checkpoint)
        if parts.ranks.is_main:
            parts.watcher.saved(saved)

    def _write_checkpoint(self) -> Path:
        parts = self._parts
        parts.folder.flush_rows()
        return checkpoint.save(
            parts.folder.checkpoints,
            parts.stateful,
            parts.identity,
            keep=parts.recipe.checkpoint.keep,
        )

    def _save_what_is_left(self, lost: EngineLost, rollouts: Pipeline) -> EngineLost:
        """Save the last step that is done, and return the error that says so."""
        self._tell(rollouts.take_messages())
        step = self._counters.step
        # What was lost may end in a line of its own, with a command to copy.
        so_far = f"{lost}\n" if "\n" in str(lost) else f"{lost}; "
        if step == 0:
            return EngineLost(f"{so_far}no step was done: {self._again} to start over")
        try:
            self._save(rollouts)
        except StorageError as fault:
            return EngineLost(f"{so_far}and {fault}")
        return EngineLost(
            f"{so_far}a checkpoint was written after step {step}; {self._again} to go on"
        )

    def _write(self, row: Row) -> None:
        self._write_rows([row], self._parts.sinks)

    def _write_rows(self, rows: Sequence[Row], sinks: Sequence[Sink]) -> None:
        """Write on rank 0; every rank hears of it when that fails."""

        def write() -> None:
            for row, sink in itertools.product(rows, sinks):
                sink.write(row)

        self._parts.ranks.on_main(write)

    def _say(self, report: HarvestReport) -> None:
        """Say what the scheduler noticed; that a step has nothing to learn from is said, or kept
        for the end of the step, as `curriculum.refill.when_dry` wants."""
        harvest, messages = report.harvest, list(report.messages)
        when_dry = self._parts.recipe.curriculum.refill.when_dry
        if not harvest.admitted:
            dry = self._remarks.of_dry(harvest)
            if when_dry == "stop":
                self._why_ended = dry
            else:
                messages.append(dry)
        self._tell([*messages, *self._remarks.of_harvest(harvest)])

    def _recall(self, *, last_step: int) -> None:
        """Show the alarms the rows of the earlier part of the run."""
        parts = self._parts
        if parts.ranks.is_main:
            rows = iter_rows(parts.folder.metrics)
            parts.alarms.recall(row for row in rows if row["step"] <= last_step)

    def _watch(self, row: Row, samples: list[Row]) -> Row:
        """Ask the alarms about a row, and return their keys; what they have to say is said, or kept
        for the end of the step, as `alarms.stop` wants, with samples to look at."""
        parts, recipe = self._parts, self._parts.recipe
        found = parts.ranks.on_main(lambda: parts.alarms(row))
        file = parts.folder.samples(row["step"])
        messages = [f"{message}; look at {file}" for message in found.messages]
        if messages and not self._is_due(recipe.eval.every):
            parts.ranks.on_main(lambda: write_samples(file, samples))
        ends = recipe.alarms.stop and not self.is_finished and self._why_ended is None
        if messages and ends:
            self._why_ended = (
                f"{'; '.join(messages)}. alarms.stop=true: the run ends here, behind a checkpoint; "
                f"{self._again} to go on: an alarm that still stands does not end it again"
            )
        else:
            self._tell(messages)
        return dict(found.keys)

    def _tell(self, messages: Iterable[str]) -> None:
        for message in messages:
            if self._parts.ranks.is_main:
                self._parts.watcher.said(message)

    def _end_if_asked(self) -> None:
        """End the run, every rank alike, with what the step found."""
        if self._why_ended is not None:
            raise RunError(self._why_ended)

    def _log(self, rows: Sequence[Row], log: Sink | None) -> None:
        self._write_rows(rows, [] if log is None else [log])

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
