"""`rl-llm data explain`: the history of one problem of a run, what is believed of it, and why it is
or is not drawn."""

import argparse
import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy.special import betaincinv, expit

from rl_llm.cli.beliefs import SavedScheduler, load_scheduler
from rl_llm.cli.data import prompt_text
from rl_llm.config import Recipe, load_recipe
from rl_llm.curriculum import Scheduler, informative_probability
from rl_llm.curriculum.pool import bucket_name
from rl_llm.curriculum.priors import Evidence, evidence_for, read_priors
from rl_llm.errors import DataError, InputError
from rl_llm.problems import load_pool
from rl_llm.records import Problem
from rl_llm.trainer import RunFolder
from rl_llm.trainer.draws import LoggedDraw, read_draws

_INTERVAL = (0.025, 0.975)
_MOST_PROMPTS_COMPARED = 5000
_LONGEST_SHOWN = 60


@dataclass(frozen=True, kw_only=True)
class Found:
    """What KEY means: a problem that stands in the pool at a position, or a bucket of a stream that
    brought the problem earlier."""

    key: str
    bucket_id: int
    position: int | None


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.epilog = "example: rl-llm data explain runs/quickstart 3+2="
    parser.add_argument("run_dir", metavar="RUN", type=Path, help="a run's folder")
    parser.add_argument(
        "key", metavar="KEY", help="a problem's key, its first digits, or the text of its prompt"
    )


def run(args: argparse.Namespace) -> int:
    """Print what is known of the problem after the run's newest checkpoint."""
    folder = RunFolder(args.run_dir)
    saved = load_scheduler(folder)
    scheduler = saved.scheduler
    recipe = load_recipe(folder.resolved)
    console = Console(highlight=False, soft_wrap=True, markup=False)
    found = find(args.key, scheduler, folder)
    if found is None:
        held_out = find_held_out(args.key, recipe)
        if held_out is None:
            raise _unknown(args.key, scheduler.problems, folder)
        lines = [*_problem_lines(held_out), "", "held out: evaluated alone, never scheduled"]
        console.print("\n".join(lines))
        return 0
    history = list(read_draws(folder.draws, prefix=found.key))
    console.print("\n".join(_head(found, scheduler, history)))
    console.print()
    _print_history(console, history, recipe)
    if num_later := sum(draw.step > saved.step for draw in history):
        console.print(
            f"the newest checkpoint knows nothing yet of {_counted(num_later, 'draw')} behind step "
            f"{saved.step}, nor does what follows"
        )
    is_over = folder.adapter.is_dir() or saved.learnt_step >= recipe.run.steps
    console.print("\n".join(["", *_now(found, saved, recipe, is_over=is_over)]))
    return 0


def find(text: str, scheduler: Scheduler, folder: RunFolder) -> Found | None:
    """Return the one training problem with this prompt, or whose key begins so; None if there is
    none.

    What a stream brought earlier is found in the log of draws, by its key alone. Raises
    `InputError` when several problems are meant.
    """
    matches = _matching(text, scheduler.problems)
    _refuse_several(text, [scheduler.problems[position].key for position in matches])
    index = scheduler.index
    if matches:
        (position,) = matches
        bucket_id = int(index.bucket_ids[position])
        return Found(key=scheduler.problems[position].key, bucket_id=bucket_id, position=position)
    logged = {draw.key: draw for draw in read_draws(folder.draws, prefix=text)}
    _refuse_several(text, list(logged))
    buckets = {name: bucket_id for bucket_id, name in enumerate(index.bucket_names)}
    for draw in logged.values():
        name = bucket_name(draw.source, draw.level)
        if name in buckets:
            return Found(key=draw.key, bucket_id=buckets[name], position=None)
    return None


def find_held_out(text: str, recipe: Recipe) -> Problem | None:
    """Return the held-out problem with this prompt, or whose key begins so; None if there is none.

    Raises `InputError` when several are meant.
    """
    if not recipe.data.eval:
        return None
    pool = load_pool(recipe.data.eval, where="data.eval").problems
    matches = [pool[position] for position in _matching(text, pool)]
    _refuse_several(text, [problem.key for problem in matches])
    return matches[0] if matches else None


def _matching(text: str, problems: Sequence[Problem]) -> list[int]:
    """Return the positions of problems with exactly this prompt; if none, of those whose key begins
    so."""
    wanted = text.strip()
    by_prompt = [n for n, p in enumerate(problems) if wanted in _texts(p)]
    return by_prompt or [n for n, p in enumerate(problems) if p.key.startswith(text)]


def _texts(problem: Problem) -> tuple[str, ...]:
    """Return what a person may call the prompt: all of it, and of a chat the last turn."""
    if isinstance(problem.prompt, str):
        return (problem.prompt.strip(),)
    return prompt_text(problem.prompt).strip(), problem.prompt[-1]["content"].strip()


def _refuse_several(text: str, keys: Sequence[str]) -> None:
    if len(keys) > 1:
        some = ", ".join(sorted(keys)[:3])
        raise InputError(
            f"{text!r} means {len(keys)} problems ({some}{', ...' if len(keys) > 3 else ''}); give "
            "more digits of the key"
        )


def _unknown(text: str, problems: Sequence[Problem], folder: RunFolder) -> DataError:
    """Return the error about a problem that is nowhere, with the nearest prompt or an example."""
    by_text = {_texts(problem)[-1]: problem for problem in problems[:_MOST_PROMPTS_COMPARED]}
    close = difflib.get_close_matches(text, by_text, n=1)
    shown = by_text[close[0]] if close else problems[0]
    how = "the nearest prompt is" if close else "for example"
    return DataError(
        f"no problem of {folder.path} has a key that begins with {text!r}, or this prompt; its "
        f"training pool holds {len(problems):,} problems, {how} {shown.key} "
        f"({_short(_texts(shown)[-1])!r})"
    )


def _head(found: Found, scheduler: Scheduler, history: Sequence[LoggedDraw]) -> list[str]:
    if found.position is not None:
        return _problem_lines(scheduler.problems[found.position])
    last = history[-1]
    return [
        f"key      {found.key}",
        f"source   {last.source}, level {last.level}",
        "prompt   of an endless stream, which has put another problem in its place",
    ]


def _problem_lines(problem: Problem) -> list[str]:
    return [
        f"key      {problem.key}",
        f"source   {problem.source}, level {problem.level}",
        f"prompt   {_indented(prompt_text(problem.prompt))}",
        f"answer   {_indented(problem.answer)}",
    ]


def _print_history(console: Console, history: Sequence[LoggedDraw], recipe: Recipe) -> None:
    if not history:
        console.print("history  never drawn")
        return
    num_correct = sum(draw.num_correct for draw in history)
    num_counted = sum(draw.num_counted for draw in history)
    num_drawn = sum(draw.why != "finish" for draw in history)
    console.print(
        f"history  drawn {_counted(num_drawn, 'time')}, {num_correct} of {num_counted} "
        "completions correct"
    )
    table = Table()
    for heading in ("step", "round", "correct", "believed", "P(mixed)"):
        table.add_column(heading, justify="right")
    table.add_column("learnt from")
    table.add_column("drawn by")
    has_probes, has_groups = recipe.curriculum.probe is not None, recipe.rollout.group_size > 1
    learnt_from = _learnt_from_probes(history) if has_probes else map(_learnt_from, history)
    for draw, learnt in zip(history, learnt_from, strict=True):
        believed = draw.belief_a / (draw.belief_a + draw.belief_b)
        table.add_row(
            str(draw.step),
            str(draw.round),
            f"{draw.num_correct} of {draw.num_counted}",
            f"{believed:.2f}",
            f"{draw.informative:.2f}" if has_groups else "-",
            learnt,
            draw.why,
        )
    console.print(table)


def _learnt_from(draw: LoggedDraw) -> str:
    return "yes" if draw.admitted else "no"


def _learnt_from_probes(history: Sequence[LoggedDraw]) -> list[str]:
    """Say of each part of a group what became of it: the part that finishes a probe says whether
    the whole was learnt from."""
    said = []
    for draw, after in zip_longest(history, history[1:]):
        if draw.why == "finish":
            said.append(_learnt_from(draw))
        elif after is not None and after.why == "finish":
            said.append("probe, finished")
        else:
            waits = after is None and 0 < draw.num_correct < draw.num_counted
            said.append("probe, waiting" if waits else "probe, dropped")
    return said


def _now(found: Found, saved: SavedScheduler, recipe: Recipe, *, is_over: bool) -> list[str]:
    """Return what holds behind the last step that was drawn: the belief, the bucket, what the next
    step makes of the problem, or would make if there were one."""
    scheduler, step = saved.scheduler, saved.step
    beliefs = scheduler.beliefs()
    a_N, b_N = np.asarray(beliefs.a, np.float64), np.asarray(beliefs.b, np.float64)
    in_bucket = np.flatnonzero(scheduler.index.bucket_ids == found.bucket_id)
    rate = float((a_N[in_bucket] / (a_N[in_bucket] + b_N[in_bucket])).mean())
    num_visited = int(np.count_nonzero(scheduler.visits_N[in_bucket]))
    is_endless = scheduler.index.endless_K[found.bucket_id]
    which = " at a time, endless" if is_endless else f", {num_visited:,} of them visited"
    bucket = (
        f"bucket   {scheduler.index.bucket_names[found.bucket_id]}: "
        f"{_counted(len(in_bucket), 'problem')}{which}, believed pass rate {rate:.2f} on average"
    )
    is_ahead = step > saved.learnt_step
    whose = f"drawn ahead of step {saved.learnt_step}, " if is_ahead else ""
    lines = [f"after step {step}, {whose}that of the newest checkpoint:"]
    if found.position is None:
        return [*lines, bucket]
    a, b, group_size = a_N[found.position], b_N[found.position], recipe.rollout.group_size
    low, high = betaincinv(a, b, _INTERVAL)
    mixed = float(informative_probability(a, b, group_size=group_size))
    of_group = f"; a group of {group_size} would be mixed with probability {mixed:.2f}"
    lines += [
        f"belief   pass rate {a / (a + b):.2f}, between {low:.2f} and {high:.2f} with probability "
        f"95 %{of_group if group_size > 1 else ''}",
        bucket,
        *_prior_lines(found.position, scheduler, recipe),
    ]
    facts = scheduler.explain(scheduler.problems[found.position].key, step=step + 1)
    if is_over:
        unless = ", if the run were not over"
    else:
        unless = ", if the run had more steps" if step >= recipe.run.steps else ""
    when = f"in step {step + 1}{unless}:"
    return [*lines, "", when, *(f"{name:<10} {said}" for name, said in facts)]


def _prior_lines(position: int, scheduler: Scheduler, recipe: Recipe) -> list[str]:
    """Return what was known of a problem before step 1, and how its difficulty tells it from its
    bucket; nothing where neither does."""
    problem, priors = scheduler.problems[position], recipe.curriculum.priors
    bucket_id, lines = int(scheduler.index.bucket_ids[position]), []
    if scheduler.index.endless_K[bucket_id]:
        return []
    evidence = _evidence(problem, priors.path, strength=priors.strength)
    worth = float(evidence.correct_N[0] + evidence.wrong_N[0])
    if worth > 0:
        lines.append(
            f"prior    worth {worth:.3g} completions at pass rate "
            f"{evidence.correct_N[0] / worth:.2f} before step 1, {evidence.origin}"
        )
    offset = scheduler.belief.prior_offset(position)
    if offset:
        logit = float(scheduler.belief.bucket_logits[bucket_id])
        lines.append(
            f"offset   its difficulty moves what its bucket says by {offset:+.2f} logits: from "
            f"pass rate {expit(logit):.2f} to {expit(logit + offset):.2f}"
        )
    return lines


def _evidence(problem: Problem, paths: str | Sequence[str] | None, *, strength: float) -> Evidence:
    """Return what a problem's prior is worth, and where it is from: of several files the last
    that knows the problem."""
    if not paths:
        return evidence_for([problem], None, strength=strength)
    each = [paths] if isinstance(paths, str) else paths
    for path in reversed(each):
        evidence = evidence_for([problem], read_priors(path), strength=strength)
        if evidence.num_known:
            return evidence
    return evidence_for([problem], read_priors(each), strength=strength)


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST_SHOWN else line[: _LONGEST_SHOWN - 3] + "..."


def _indented(text: str) -> str:
    return text.replace("\n", "\n         ")
