"""From the rows of `bench_rollout.py` to figures and tables. Imports no torch."""

from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any

from parts.shared.docs import origin, table
from parts.vs_trl.table import side_summary

Row = Mapping[str, Any]
TARGETS = {
    "generation_share": 0.9,
    "step_ratio": 4.0,
    "overlap_ratio": 1.15,
}
"""At least, at least, and at most."""


def summarise(rows: Sequence[Row]) -> dict[str, Any]:
    """Return the figures of every part that has rows: medians over all steps of all repeats."""
    summary: dict[str, Any] = {}
    for part, figures in FIGURES.items():
        own = [row for row in rows if row["part"] == part]
        if own:
            summary |= {name: round(value, 4) for name, value in figures(own).items()}
    return summary


def generation_figures(rows: Sequence[Row]) -> dict[str, float]:
    """Return tokens per second inside training and of vLLM alone, and the median of each step's
    quotient."""
    steps = [step for row in rows for step in row["steps"]]
    return {
        "training_tokens_per_s": median(s["tokens"] / s["generate_s"] for s in steps),
        "alone_tokens_per_s": median(s["tokens"] / s["alone_s"] for s in steps),
        "generation_share": median(s["alone_s"] / s["generate_s"] for s in steps),
        "wait_for_weights_s": median(s["publish_s"] for s in steps),
        "wait_for_weights_share": median(s["publish_s"] / s["step_s"] for s in steps),
    }


def publish_figures(rows: Sequence[Row]) -> dict[str, float]:
    """Return the seconds of each mechanism."""
    return {
        f"publish_s/{name}": median(s for r in rows if r["case"] == name for s in r["publish_s"])
        for name in dict.fromkeys(row["case"] for row in rows)
    }


def step_figures(rows: Sequence[Row]) -> dict[str, float]:
    """Return both sides' seconds a step, and the median of the paired quotients."""
    pairs = [(side_summary(row["trl"]), side_summary(row["rl_llm"])) for row in rows]
    return {
        "trl_step_s": median(trl["step_s"] for trl, _ in pairs),
        "rl_llm_step_s": median(own["step_s"] for _, own in pairs),
        "step_ratio": median(trl["step_s"] / own["step_s"] for trl, own in pairs),
        "step_ratio_per_token": median(
            trl["step_s_per_1000_tokens"] / own["step_s_per_1000_tokens"] for trl, own in pairs
        ),
        "trl_informative_share": median(trl["informative_share"] for trl, _ in pairs),
        "rl_llm_informative_share": median(own["informative_share"] for _, own in pairs),
    }


def overlap_figures(rows: Sequence[Row]) -> dict[str, float]:
    """Return a step's seconds in turns and at once, and its quotient to the longer of generation
    and training in turns."""
    turns = [s for row in rows if row["case"] == "max_staleness=0" for s in row["steps"]]
    at_once = [s for row in rows if row["case"] == "max_staleness=1" for s in row["steps"]]
    figures = {}
    if turns:
        generate_s = median(step["generate_s"] + step["score_s"] for step in turns)
        train_s = median(step["step_s"] - step["generate_s"] - step["score_s"] for step in turns)
        figures |= {"turns_generate_s": generate_s, "turns_train_s": train_s}
    if at_once:
        figures["overlap_step_s"] = median(step["step_s"] for step in at_once)
    if turns and at_once:
        figures["overlap_ratio"] = figures["overlap_step_s"] / max(generate_s, train_s)
    return figures


FIGURES: dict[str, Callable[[Sequence[Row]], dict[str, float]]] = {
    "generation": generation_figures,
    "publish": publish_figures,
    "step": step_figures,
    "overlap": overlap_figures,
}

TEXTS = {
    "training_tokens_per_s": "tokens per second, generation inside training",
    "alone_tokens_per_s": "tokens per second, vLLM alone, same prompts and lengths",
    "generation_share": "the one over the other, step by step",
    "wait_for_weights_s": "seconds in which a step waits for weights",
    "wait_for_weights_share": "as a share of the step",
    "publish_s/smollm2/merged": "seconds to publish, merged weights",
    "publish_s/smollm2/adapter": "seconds to publish, adapter",
    "trl_step_s": "seconds a step, TRL",
    "rl_llm_step_s": "seconds a step, rl-llm",
    "step_ratio": "the one over the other, pair by pair",
    "step_ratio_per_token": "the same for each token",
    "trl_informative_share": "informative share, TRL",
    "rl_llm_informative_share": "informative share, rl-llm",
    "turns_generate_s": "in turns: seconds of generation and scoring",
    "turns_train_s": "in turns: seconds of all the rest",
    "overlap_step_s": "at once: seconds a step",
    "overlap_ratio": "over the longer of both",
}


def markdown(tree: Mapping[str, Any]) -> str:
    """Return the table of all figures, with targets where there are any."""
    lines = ["what | measured | target"]
    for name, value in tree["summary"].items():
        target = TARGETS.get(name)
        side = "at most" if name == "overlap_ratio" else "at least"
        wanted = "" if target is None else f"{side} {target:g}"
        lines.append(f"{TEXTS[name]} | {value:.3g} | {wanted}")
    repeats = 1 + max((row["repeat"] for row in tree.get("rows", [])), default=0)
    return f"{origin(tree)}; repeats: {repeats}\n\n{table(lines)}"
