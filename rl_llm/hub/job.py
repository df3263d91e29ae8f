"""What is to be pushed, and what came of one attempt: plain records that cross processes as
JSON."""

from collections.abc import Mapping
from dataclasses import dataclass

STALL_S = 60.0
"""After so long without a byte from the hub, a request counts as lost."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One commit: `files` maps a path in the repository to a file here.

    `is_merged` says that these are full weights and not an adapter.
    """

    repo_id: str
    files: Mapping[str, str]
    message: str
    revision: str = "main"
    private: bool = True
    is_merged: bool = False
    stall_s: float = STALL_S


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What one attempt came to: `url` of what was pushed, or the `fault`.

    Trying a `refused` job again does not help by itself; `retry_after_s` is what the hub asked for.
    `kind` is alike for failures that are alike, whatever `fault` says of one; empty, it is `fault`.
    """

    url: str = ""
    is_private: bool = True
    fault: str = ""
    kind: str = ""
    refused: bool = False
    retry_after_s: float = 0.0

    @property
    def is_done(self) -> bool:
        """Whether all of it is on the hub."""
        return not self.fault
