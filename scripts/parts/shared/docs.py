"""What the benchmarks that make many runs share in writing: a result file with its rows one a line,
and sections of docs/benchmarks.md between markers. Imports no torch."""

import json
import os
import platform
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from parts.shared.checkout import ROOT
from rl_llm.errors import InputError

BENCHMARKS = ROOT / "docs" / "benchmarks"
DOCUMENT = ROOT / "docs" / "benchmarks.md"
PACKAGES = ("rl-llm", "torch", "transformers", "peft", "numpy")

Tree = dict[str, Any]


def read_result(file: Path) -> Tree:
    """Return what an earlier call wrote; empty before the first."""
    if not file.is_file():
        return {}
    tree: Tree = json.loads(file.read_text(encoding="utf-8"))
    return tree


def merge_result(file: Path, part: Mapping[str, Any]) -> Tree:
    """Put `part` over what stands in the file, write it, and return the whole."""
    tree = read_result(file) | part
    rows = tree.pop("rows", [])
    head = json.dumps(tree, indent=1).removesuffix("\n}")
    lines = ",\n".join(f"  {json.dumps(row)}" for row in rows)
    text = f'{head},\n "rows": [\n{lines}\n ]\n}}\n' if rows else f"{head}\n}}\n"
    file.parent.mkdir(parents=True, exist_ok=True)
    aside = file.with_suffix(".tmp")
    aside.write_text(text, encoding="utf-8")
    aside.replace(file)
    return {**tree, "rows": rows}


def write_between(document: Path, name: str, text: str) -> None:
    """Replace what stands between the markers `name:begin` and `name:end` of a document."""
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    head, found, rest = document.read_text(encoding="utf-8").partition(begin)
    _, closed, tail = rest.partition(end)
    if not found or not closed:
        raise InputError(f"{document} lacks the lines {begin} and {end}; put them where it goes")
    document.write_text(f"{head}{begin}\n{text}\n{end}{tail}", encoding="utf-8")


def provenance(command: str) -> Tree:
    """Return the command, the versions and the machine."""
    found = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    names = [line.partition(":")[2].strip() for line in found if line.startswith("model name")]
    gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "command": command,
        "versions": ", ".join(f"{name} {version(name)}" for name in PACKAGES),
        "machine": f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores, "
        f"{gib:.0f} GiB, Python {platform.python_version()}",
    }


def origin(tree: Mapping[str, Any]) -> str:
    """Return in a line where the figures of a tree come from."""
    return f"{tree['machine']}; {tree['versions']}; `{tree['command']}`"


def table(lines: Iterable[str]) -> str:
    """Return a Markdown table; the first line is its head, cells stand between bars."""
    head, *body = [f"| {line} |" for line in lines]
    return "\n".join([head, "| --- " * (head.count("|") - 1) + "|", *body])
