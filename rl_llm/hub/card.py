"""The model card that lies beside an adapter."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rl_llm import __version__
from rl_llm.config import Recipe, dump_yaml

_CARD = """\
---
base_model: {base}
library_name: peft
pipeline_tag: text-generation
tags: [rl-llm, {algorithm}, lora]
---

# {name}

A LoRA adapter for `{base}`, trained with {algorithm} by rl-llm {version} on rewards that can be
checked ({rewards}): {steps} steps, {completions:,} completions, {tokens:,} sampled tokens.

{results}
## Use

```python
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained({base!r})
model = PeftModel.from_pretrained(model, "path/to/this/folder")
tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder")
```

## Recipe

```yaml
{recipe}```
"""


def write_card(folder: Path, recipe: Recipe, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Write README.md beside an adapter, from the recipe and the rows of the run's metrics."""
    last = rows[-1]
    text = _CARD.format(
        base=recipe.model.path,
        name=recipe.run.name,
        algorithm=recipe.algorithm.name,
        version=__version__,
        rewards=", ".join(reward.use for reward in recipe.rewards),
        steps=last["step"],
        completions=last.get("rollout/completions", 0),
        tokens=last.get("rollout/tokens", 0),
        results=_results([row for row in rows if "eval/pass_rate" in row]),
        recipe=dump_yaml(recipe),
    )
    path = folder / "README.md"
    path.write_text(text, encoding="utf-8")
    return path


def _results(evaluated: Sequence[Mapping[str, Any]]) -> str:
    """Return a table of the first and the last evaluation; empty without held-out problems."""
    if not evaluated:
        return ""
    chosen = [evaluated[0]] if len(evaluated) == 1 else [evaluated[0], evaluated[-1]]
    lines = ["| step | held-out pass rate | standard error |", "| ---: | ---: | ---: |"]
    lines += [
        f"| {row['step']} | {row['eval/pass_rate']:.3f} | {row['eval/pass_rate_se']:.3f} |"
        for row in chosen
    ]
    return "\n".join(lines) + "\n"
