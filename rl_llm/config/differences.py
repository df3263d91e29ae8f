"""What tells two recipes apart, key by key."""

from collections.abc import Mapping
from typing import Any


def differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Return the values of every key that differs, by its dotted path, in the order of the paths.

    A key that is missing shows as `nothing`, and is the same as null. Where one recipe has a value
    and the other a section, the keys of the section stand for both.
    """
    left, right = _flat(a), _flat(b)
    paths = sorted(left.keys() | right.keys())
    apart = [path for path in paths if left.get(path) != right.get(path)]
    return {
        path: (_shown(left, path), _shown(right, path))
        for path in apart
        if not any(other.startswith(f"{path}.") for other in apart)
    }


def _shown(leaves: Mapping[str, Any], path: str) -> str:
    return repr(leaves[path]) if path in leaves else "nothing"


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Return the leaves of a tree by their dotted path; `tracking` is a leaf, and so is what holds
    nothing."""
    children: Mapping[Any, Any] = {}
    if isinstance(tree, Mapping):
        children = tree
    elif isinstance(tree, list) and prefix != "tracking":
        children = dict(enumerate(tree))
    leaves: dict[str, Any] = {}
    for key, child in children.items():
        leaves |= _flat(child, f"{prefix}.{key}" if prefix else str(key))
    return leaves or {prefix: tree}
