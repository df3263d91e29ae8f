"""What a run has begun and not finished when a checkpoint is written, and its place there.

With `rollout.max_staleness` completions are generated ahead of the step that learns from them; and
an engine may be lost in the middle of a step's completions or of an evaluation.
"""

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rl_llm.curriculum.draw_record import Draw
from rl_llm.curriculum.group_json import from_json, problem_from_json, problem_to_json, to_json
from rl_llm.curriculum.pool import StateDict
from rl_llm.errors import CheckpointError
from rl_llm.records import ScoredGroup
from rl_llm.trainer.generation import Harvest

Row = dict[str, Any]

_FILE = "pending.json"
_ADAPTERS = "adapters"


@dataclass(frozen=True, kw_only=True)
class HarvestReport:
    """A step's harvest, with what the scheduler measures and says right behind it."""

    harvest: Harvest
    metrics: Row
    messages: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class UnfinishedStep:
    """A step that was learnt from, whose evaluation is still due: its row and samples so far, and
    what it found that ends the run."""

    row: Row
    samples: list[Row]
    why_ended: str | None = None


@dataclass(kw_only=True)
class Pending:
    """What is pending behind the last step; empty where everything takes turns.

    `reports` holds, by step, harvests that wait to be learnt from: no counter knows them yet, but
    the scheduler does. `adapters` holds, by version, folders of the weights that the harvests after
    them need, where those are not the newest. `curriculum` is the scheduler's state from before a
    harvest that failed; None means that the scheduler stands where it should.
    """

    reports: dict[int, HarvestReport] = field(default_factory=dict)
    adapters: dict[int, Path] = field(default_factory=dict)
    curriculum: StateDict | None = None
    unfinished: UnfinishedStep | None = None

    def save(self, folder: Path) -> None:
        """Write what is pending into a checkpoint's folder; nothing, where nothing is."""
        for version, adapter in self.adapters.items():
            shutil.copytree(adapter, folder / _ADAPTERS / f"{version:06d}")
        if not (self.reports or self.adapters or self.unfinished):
            return
        unfinished = None if self.unfinished is None else vars(self.unfinished)
        tree = {
            "harvests": [_to_json(step, report) for step, report in sorted(self.reports.items())],
            "versions": sorted(self.adapters),
            # Samples are for people, and hold whatever a source's columns hold.
            "unfinished": json.loads(json.dumps(unfinished, default=str)),
        }
        (folder / _FILE).write_text(json.dumps(tree), encoding="utf-8")

    def load(self, folder: Path) -> None:
        """Take over what `save` wrote; the adapters stay in the checkpoint's folder.

        Raises `CheckpointError` for what is damaged.
        """
        self.reports, self.adapters = {}, {}
        self.curriculum = self.unfinished = None
        file = folder / _FILE
        if not file.is_file():
            return
        try:
            self._take_over(json.loads(file.read_text(encoding="utf-8")), folder)
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise CheckpointError(
                f"{file} cannot be read ({error}); delete {folder} to resume from the checkpoint "
                "before"
            ) from None

    def _take_over(self, tree: Mapping[str, Any], folder: Path) -> None:
        self.reports = {each["step"]: _from_json(each) for each in tree["harvests"]}
        for version in tree["versions"]:
            self.adapters[version] = folder / _ADAPTERS / f"{version:06d}"
            if not self.adapters[version].is_dir():
                raise ValueError(f"{self.adapters[version]} is missing")
        if tree["unfinished"] is not None:
            self.unfinished = UnfinishedStep(**tree["unfinished"])


def _to_json(step: int, report: HarvestReport) -> dict[str, Any]:
    harvest = report.harvest
    groups = _distinct([*harvest.scored, *harvest.admitted, *harvest.dropped])
    place = {id(group): number for number, group in enumerate(groups)}
    problems = {group.group.problem.key: group.group.problem for group in groups}
    return {
        "step": step,
        "problems": [problem_to_json(problem) for problem in problems.values()],
        "groups": [to_json(group) for group in groups],
        **{
            name: [place[id(group)] for group in getattr(harvest, name)]
            for name in ("scored", "admitted", "dropped")
        },
        "draws": harvest.draws,
        "num_rounds": harvest.num_rounds,
        "generate_s": harvest.generate_s,
        "score_s": harvest.score_s,
        "metrics": report.metrics,
        "messages": report.messages,
    }


def _from_json(saved: Mapping[str, Any]) -> HarvestReport:
    problems = {each["key"]: problem_from_json(each) for each in saved["problems"]}
    groups = [from_json(each, problems[each["key"]]) for each in saved["groups"]]
    return HarvestReport(
        harvest=Harvest(
            scored=_picked(groups, saved["scored"]),
            draws=tuple(Draw(*each) for each in saved["draws"]),
            admitted=_picked(groups, saved["admitted"]),
            dropped=_picked(groups, saved["dropped"]),
            num_rounds=saved["num_rounds"],
            generate_s=saved["generate_s"],
            score_s=saved["score_s"],
        ),
        metrics=saved["metrics"],
        messages=tuple(saved["messages"]),
    )


def _distinct(groups: Iterable[ScoredGroup]) -> list[ScoredGroup]:
    """Return each object once: most groups are both scored and decided, and are written once."""
    return list({id(group): group for group in groups}.values())


def _picked(groups: Sequence[ScoredGroup], places: Sequence[int]) -> tuple[ScoredGroup, ...]:
    return tuple(groups[place] for place in places)
