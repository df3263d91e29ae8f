"""The model card that lies beside an adapter, or beside weights that it was merged into."""

import json
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from rl_llm import __version__
from rl_llm.config import Recipe, SourceUse, dump_yaml
from rl_llm.hub.access import is_repo_id, redact

_CARD = """\
---
{metadata}
---

# {name}

{summary}

| trained | |
| --- | --- |
{facts}

{results}## Use

```python
{snippet}
```

{note}## How it was made

{fence}
{command}
{fence}

| package | version |
| --- | --- |
{versions}

The recipe, with every default; `resolved.yaml` is the same as a file:

{fence}yaml
{recipe}{fence}
"""

_ADAPTER = """\
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

base = {base}
{line}
model = PeftModel.from_pretrained(
    AutoModelForCausalLM.from_pretrained(base, dtype={dtype}), adapter, revision=revision
)
tokenizer = AutoTokenizer.from_pretrained(adapter, revision=revision)
"""

_MERGED = """\
from transformers import AutoModelForCausalLM, AutoTokenizer

path, revision = {repo}, {revision}
model = AutoModelForCausalLM.from_pretrained(path, revision=revision, dtype={dtype})
tokenizer = AutoTokenizer.from_pretrained(path, revision=revision)
"""

_COMPLETE = '''

def complete(prompt, max_new_tokens={max_new_tokens}):
    """Return the completion of a text, or of a list of chat messages."""
    if isinstance(prompt, str):
        inputs = tokenizer(prompt, return_tensors="pt", return_token_type_ids=False)
    else:
        inputs = tokenizer.apply_chat_template(
            prompt, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
    output = model.generate(**inputs, max_new_tokens=max_new_tokens)
    return tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
'''

_MOST_RESULTS = 12
_PACKAGES = ("torch", "transformers", "peft", "accelerate")
_HERE = "path/to/this/folder"
_PLACE = re.compile(r"^adapter, revision = .*$", re.MULTILINE)
_LEVEL = "eval/pass_rate/level="


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where the card's snippet loads from; without a `repo_id`, from the folder that it is in."""

    repo_id: str | None = None
    revision: str = "main"
    is_merged: bool = False


def write_card(
    folder: Path,
    recipe: Recipe,
    rows: Sequence[Mapping[str, Any]],
    *,
    command: str,
    place: Place | None = None,
) -> Path:
    """Write README.md beside an adapter, from the recipe, the rows of the run's metrics, and the
    command that ran it."""
    path = folder / "README.md"
    path.write_text(
        render_card(recipe, rows, command=command, place=place or Place()), encoding="utf-8"
    )
    return path


def render_card(
    recipe: Recipe, rows: Sequence[Mapping[str, Any]], *, command: str, place: Place
) -> str:
    """Return the card's text; no token that is known here stands in it."""
    settings = dump_yaml(recipe)
    evaluated = [row for row in rows if "eval/pass_rate" in row]
    text = _CARD.format(
        metadata=_metadata(recipe, evaluated, place).to_yaml(),
        name=recipe.run.name,
        summary=_summary(recipe, place),
        facts="\n".join(f"| {name} | {value} |" for name, value in _facts(recipe, rows).items()),
        results=_results(evaluated, recipe),
        snippet=_snippet(recipe, place),
        note=_note(recipe, place),
        command=command,
        versions="\n".join(f"| {name} | {value} |" for name, value in _versions().items()),
        recipe=settings,
        fence="````" if "```" in settings + command else "```",
    )
    return redact(text)


def placed(card: str, place: Place) -> str | None:
    """Return an adapter's card for another place, else as it is: also what a person wrote into it.
    None where its snippet is not there any more."""
    text, count = _PLACE.subn(lambda _: _place_line(place), card, count=1)
    return text if count else None


def _place_line(place: Place) -> str:
    repo, revision = json.dumps(place.repo_id or _HERE), json.dumps(place.revision)
    return f"adapter, revision = {repo}, {revision}"


def _metadata(
    recipe: Recipe, evaluated: Sequence[Mapping[str, Any]], place: Place
) -> ModelCardData:
    """Return what the hub reads. It takes a base model for one of its own, so that a folder here is
    none."""
    base = recipe.model.path
    held_out = list(dict.fromkeys(source.use for source in recipe.data.eval))
    results = [
        EvalResult(
            task_type="text-generation",
            dataset_type=", ".join(held_out),
            dataset_name=f"held-out problems: {', '.join(held_out)}",
            metric_type="accuracy",
            metric_name="pass rate",
            metric_value=round(row["eval/pass_rate"], 4),
        )
        for row in evaluated[-1:]
    ]
    return ModelCardData(
        base_model=base if _is_hub_name(base) else None,
        eval_results=results or None,
        library_name="transformers" if place.is_merged else "peft",
        model_name=recipe.run.name if results else None,
        pipeline_tag="text-generation",
        tags=["rl-llm", "reinforcement-learning", recipe.algorithm.name, "lora"],
    )


def _is_hub_name(path: str) -> bool:
    return is_repo_id(path) and not Path(path).is_dir()


def _summary(recipe: Recipe, place: Place) -> str:
    what = "Weights with a LoRA adapter merged into them" if place.is_merged else "A LoRA adapter"
    return (
        f"{what} for `{recipe.model.path}`, trained with reinforcement learning "
        f"({recipe.algorithm.name}) by rl-llm {__version__} on rewards that can be checked."
    )


def _facts(recipe: Recipe, rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    last: Mapping[str, Any] = rows[-1] if rows else {}
    return {
        "base model": f"`{recipe.model.path}`, {recipe.model.dtype}",
        "problems": _uses(recipe.data.train),
        "held-out problems": _uses(recipe.data.eval) or "none",
        "rewards": ", ".join(f"{reward.weight:g} x `{reward.use}`" for reward in recipe.rewards),
        "algorithm": f"`{recipe.algorithm.name}`, KL controller `{recipe.kl.controller.name}`",
        "adapter": f"rank {recipe.lora.rank}, alpha {recipe.lora.alpha:g}",
        "steps": f"{last.get('step', 0):,}",
        "completions": f"{last.get('rollout/completions', 0):,}",
        "sampled tokens": f"{last.get('rollout/tokens', 0):,}",
    }


def _uses(sources: Sequence[SourceUse]) -> str:
    """Return the sources with their options; a cell of a table holds no bar."""
    shown = []
    for source in sources:
        options = ", ".join(f"{key}={value}" for key, value in source.options.items())
        shown.append(f"`{source.use}`" + (f" ({options})" if options else ""))
    return ", ".join(shown).replace("|", "/").replace("\n", " ")


def _results(evaluated: Sequence[Mapping[str, Any]], recipe: Recipe) -> str:
    """Return the evaluations, thinned where there are many, and the levels of the first and last;
    empty without held-out problems."""
    if not evaluated:
        return ""
    num_samples = recipe.eval.samples_per_problem
    samples = f"{num_samples} sample{'s' * (num_samples > 1)}"
    lines = [
        "## Results on held-out problems\n",
        f"The share of completions that are correct, {samples} a problem at "
        f"temperature {recipe.rollout.temperature:g}, with its standard error.\n",
        "| step | held-out pass rate | standard error |",
        "| ---: | ---: | ---: |",
    ]
    lines += [
        f"| {row['step']} | {row['eval/pass_rate']:.3f} | {row['eval/pass_rate_se']:.3f} |"
        for row in _thinned(evaluated)
    ]
    return "\n".join([*lines, *_levels(evaluated[0], evaluated[-1])]) + "\n\n"


def _thinned(rows: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    """Return at most so many rows, evenly spread, the first and the last among them."""
    if len(rows) <= _MOST_RESULTS:
        return rows
    last = len(rows) - 1
    return [rows[round(i * last / (_MOST_RESULTS - 1))] for i in range(_MOST_RESULTS)]


def _levels(first: Mapping[str, Any], last: Mapping[str, Any]) -> list[str]:
    keys = [key for key in last if key.startswith(_LEVEL) and key in first]
    if len(keys) < 2 or first is last:
        return []
    return [
        "",
        f"| level | step {first['step']} | step {last['step']} |",
        "| --- | ---: | ---: |",
        *(f"| {key.removeprefix(_LEVEL)} | {first[key]:.3f} | {last[key]:.3f} |" for key in keys),
    ]


def _snippet(recipe: Recipe, place: Place) -> str:
    load = (_MERGED if place.is_merged else _ADAPTER).format(
        base=json.dumps(recipe.model.path),
        line=_place_line(place),
        repo=json.dumps(place.repo_id or _HERE),
        revision=json.dumps(place.revision),
        dtype=json.dumps(recipe.model.dtype),
    )
    return (load + _COMPLETE.format(max_new_tokens=recipe.rollout.max_new_tokens)).rstrip("\n")


def _note(recipe: Recipe, place: Place) -> str:
    if place.is_merged or _is_hub_name(recipe.model.path):
        return ""
    return f"The base model is a folder: put where it lies in place of `{recipe.model.path}`.\n\n"


def _versions() -> dict[str, str]:
    found = {"rl-llm": __version__, "python": platform.python_version()}
    return found | {name: version(name) for name in _PACKAGES}
