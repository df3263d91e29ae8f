"""What tells a whole checkpoint from a damaged one: the size and checksum of each of its files."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from rl_llm.trainer.storage import flush, flush_tree

MANIFEST = "manifest.json"


def seal(folder: Path) -> None:
    """Put a folder's files on the disk, then the manifest that lists them, last of all."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
    listed = {str(file.relative_to(folder)): _facts(file) for file in files}
    flush_tree(folder)
    manifest = folder / MANIFEST
    manifest.write_text(json.dumps({"files": listed}, indent=1), encoding="utf-8")
    flush(manifest)
    flush(folder)


def is_sealed(folder: Path) -> bool:
    """Say whether there is a manifest, whatever it holds."""
    return (folder / MANIFEST).is_file()


def find_fault(folder: Path) -> str | None:
    """Return which file differs from the manifest and how, the first of them; None for a folder
    that is whole. Files that the manifest does not list are not looked at."""
    try:
        for name, written in sorted(_listed(folder).items()):
            fault = _fault(folder / name, written)
            if fault is not None:
                return f"{name} {fault}"
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        is_missing = isinstance(error, FileNotFoundError)
        return f"{MANIFEST} {'is missing' if is_missing else f'cannot be read: {error}'}"
    return None


def total_bytes(folder: Path) -> int | None:
    """Return how many bytes the manifest's files have; None where it cannot be read."""
    try:
        return sum(int(facts["bytes"]) for facts in _listed(folder).values())
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None


def _listed(folder: Path) -> dict[str, dict[str, Any]]:
    listed: dict[str, dict[str, Any]] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))[
        "files"
    ]
    return listed


def _facts(file: Path) -> dict[str, Any]:
    with file.open("rb") as handle:
        checksum = hashlib.file_digest(handle, "sha256").hexdigest()
        return {"bytes": os.fstat(handle.fileno()).st_size, "sha256": checksum}


def _fault(file: Path, written: dict[str, Any]) -> str | None:
    expected, checksum = int(written["bytes"]), written["sha256"]
    try:
        found = _facts(file)
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    if found["bytes"] != expected:
        how = "truncated" if found["bytes"] < expected else "too long"
        return f"is {how}: {found['bytes']:,} of {expected:,} bytes"
    return None if found["sha256"] == checksum else "has another checksum than it was written with"
