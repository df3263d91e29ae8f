"""Where this checkout lies, and how a part of it runs in a process of its own."""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]


def program(part: str) -> list[str]:
    """Return the words that run a part, such as `parts.kl.run`, as a program; it needs
    `environment`."""
    return [sys.executable, "-m", part]


def environment(**more: str) -> dict[str, str]:
    """Return this process's environment and some variables more, in which `parts` and `rl_llm` are
    those of this checkout."""
    found = os.environ.get("PYTHONPATH")
    path = os.pathsep.join(filter(None, [str(ROOT), str(ROOT / "scripts"), found]))
    return {**os.environ, **more, "PYTHONPATH": path}
