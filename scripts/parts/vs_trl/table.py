"""From the rows of `bench_vs_trl.py` to ratios, and to the tables of docs/benchmarks.md.

A ratio is TRL's figure divided by rl-llm's, so more than 1 means that rl-llm needs less. Imports no
torch: the parent process stays small, because a child's peak memory starts at its parent's.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from rl_llm.errors import InputError
from rl_llm.seeds import derive_rng

Row = Mapping[str, Any]

BEGIN, END = "<!-- vs_trl:begin -->", "<!-- vs_trl:end -->"
TARGETS = {"embedded/as-drawn": 1.5, "smollm2/as-drawn": 2.0, "smollm2/informative": 2.5}
NUM_RESAMPLES = 10_000

RATIOS: dict[str, Callable[[Row], float]] = {
    "ratio": lambda row: row["trl_step_s"] / row["rl_llm_step_s"],
    "per_token": lambda row: _side(row, "step_s_per_1000_tokens"),
    "generation": lambda row: _side(row, "generate_s_per_1000_tokens"),
    "generation_with_publish": lambda row: _side(row, "generate_and_publish_s_per_1000_tokens"),
    "update": lambda row: _side(row, "update_s"),
    "cpu": lambda row: _side(row, "cpu_s"),
    "peak_rss": lambda row: _side(row, "peak_rss_mib"),
    "completion_length": lambda row: _side(row, "completion_tokens_mean"),
}


def side_summary(result: Mapping[str, Any]) -> dict[str, float]:
    """Return the medians over a child's measured steps, and what it held of memory."""
    steps = result["steps"]
    keys = [key for key in steps[0] if key.endswith("_s") or key.endswith(("_share", "_rate"))]
    found = {key: median(step[key] for step in steps) for key in keys}
    tokens = sum(step["tokens"] for step in steps)
    found["completion_tokens_mean"] = sum(
        step["completion_tokens_mean"] * step["tokens"] for step in steps
    ) / max(tokens, 1)
    found["tokens"] = tokens / len(steps)
    found["step_s_per_1000_tokens"] = median(1000 * s["step_s"] / s["tokens"] for s in steps)
    if "generate_s" in steps[0]:
        found["tokens_per_s"] = median(s["tokens"] / s["generate_s"] for s in steps)
        found["generate_s_per_1000_tokens"] = median(
            1000 * s["generate_s"] / s["tokens"] for s in steps
        )
        found["generate_and_publish_s_per_1000_tokens"] = median(
            1000 * (s["generate_s"] + s["publish_s"]) / s["tokens"] for s in steps
        )
    found["informative_share"] = sum(s["informative_share"] for s in steps) / len(steps)
    found["peak_rss_mib"] = result["peak_rss_mib"]
    found["loaded_rss_mib"] = result["loaded_rss_mib"]
    return {key: round(value, 5) for key, value in found.items()}


def summarise(rows: Sequence[Row]) -> dict[str, dict[str, Any]]:
    """Return, by `<model>/<groups>`, the median of each paired ratio with its 95 % interval."""
    summary = {}
    for name in dict.fromkeys(f"{row['model']}/{row['groups']}" for row in rows):
        own = [row for row in rows if f"{row['model']}/{row['groups']}" == name]
        entry: dict[str, Any] = {"pairs": len(own), "target": TARGETS[name]}
        for key, ratio_of in RATIOS.items():
            if not _applies(key, own[0]):
                continue
            ratios = [ratio_of(row) for row in own]
            low, high = bootstrap_interval(ratios)
            prefix = "" if key == "ratio" else f"{key}_"
            entry |= {f"{prefix}ratio": round(median(ratios), 4)}
            entry |= {f"{prefix}ci_low": round(low, 4), f"{prefix}ci_high": round(high, 4)}
        summary[name] = entry
    return summary


def bootstrap_interval(ratios: Sequence[float]) -> tuple[float, float]:
    """Return the 2.5 and 97.5 % points of the median over resampled pairs."""
    rng = derive_rng("bench_vs_trl", "bootstrap")
    drawn = rng.choice(np.asarray(ratios), size=(NUM_RESAMPLES, len(ratios)))
    low, high = np.quantile(np.median(drawn, axis=1), [0.025, 0.975])
    return float(low), float(high)


def markdown(tree: Mapping[str, Any]) -> str:
    """Return the tables: whole figures, then stages, then the proof."""
    lines = [f"{tree['machine']}; {tree['versions']}; `{tree['command']}`", ""]
    lines += ["| work | pairs | TRL, s | rl-llm, s | ratio (95 %) | target | per token |"]
    lines += ["| --- | --- | --- | --- | --- | --- | --- |"]
    for name, entry in tree["summary"].items():
        own = [row for row in tree["rows"] if f"{row['model']}/{row['groups']}" == name]
        trl, rl_llm = (median(row[f"{side}_step_s"] for row in own) for side in ("trl", "rl_llm"))
        lines += [
            f"| {name} | {entry['pairs']} | {trl:.2f} | {rl_llm:.2f} | {_interval(entry, '')} | "
            f"{entry['target']} | {_interval(entry, 'per_token_')} |"
        ]
    return "\n".join([*lines, "", *_stage_lines(tree), "", *_proof_lines(tree)])


def _stage_lines(tree: Mapping[str, Any]) -> list[str]:
    columns = ("generate_s", "score_s", "update_s", "publish_s", "other_s", "tokens_per_s")
    columns += ("completion_tokens_mean", "informative_share", "peak_rss_mib")
    lines = ["| work | side | " + " | ".join(columns) + " |", "| --- " * (len(columns) + 2) + "|"]
    for name in tree["summary"]:
        own = [row for row in tree["rows"] if f"{row['model']}/{row['groups']}" == name]
        for side in ("trl", "rl_llm"):
            cells = [
                f"{median(row['stages'][side][column] for row in own):.4g}"
                if column in own[0]["stages"][side]
                else "-"
                for column in columns
            ]
            lines.append(f"| {name} | {side} | " + " | ".join(cells) + " |")
    return lines


def _proof_lines(tree: Mapping[str, Any]) -> list[str]:
    lines = ["| same work | loss | beta | ratios | clipped | loss differs | gradients differ |"]
    lines += ["| --- | --- | --- | --- | --- | --- | --- |"]
    for model, proof in tree["same_work"].items():
        for case in proof["cases"]:
            lines += [
                f"| {model} | {case['loss_type']} | {case['beta']} | {case['ratio_p02']:.2f} to "
                f"{case['ratio_p98']:.2f} | {case['clipped_share']:.2f} | "
                f"{case['loss_difference']:.1e} | {case['gradient_difference']:.1e} |"
            ]
    return lines


def write_into(document: Path, table: str) -> None:
    """Replace what stands between the markers of a document."""
    text = document.read_text(encoding="utf-8")
    head, begin, rest = text.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise InputError(
            f"{document} lacks the lines {BEGIN} and {END}; put them where the table goes"
        )
    document.write_text(f"{head}{BEGIN}\n{table}\n{END}{tail}", encoding="utf-8")


def _interval(entry: Mapping[str, Any], prefix: str) -> str:
    ratio, low, high = (entry[f"{prefix}{key}"] for key in ("ratio", "ci_low", "ci_high"))
    return f"{ratio:.2f} ({low:.2f}-{high:.2f})"


def _applies(key: str, row: Row) -> bool:
    """Updates alone generate nothing."""
    return row["groups"] != "informative" or not key.startswith("generation")


def _side(row: Row, key: str) -> float:
    trl, rl_llm = (float(row["stages"][side][key]) for side in ("trl", "rl_llm"))
    return trl / rl_llm
