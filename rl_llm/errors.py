"""Every error that rl-llm raises on purpose.

`InputError` and its children mean that the user's input is wrong: the command line prints the
message alone and exits with 2. `RunError` means that a run failed for another reason: exit 1. A
message names the thing, the value, the rule and the way out.
"""

import difflib
from collections.abc import Iterable


def nearest(name: str, known: Iterable[str]) -> str:
    """Return the tail of a message about an unknown name: the closest known one, and the list."""
    choices = sorted(known)
    close = difflib.get_close_matches(name, choices, n=1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    return f"{hint}; known: {', '.join(choices) or 'none'}"


class Stopped(SystemExit):
    """A signal ends this process, with 128 + its number as the code. Whoever runs somebody else's
    code lets it through, where a `SystemExit` of that code would be a failure like any other."""


class RlLlmError(Exception):
    """Base of all deliberate errors of rl-llm."""


class InputError(RlLlmError, ValueError):
    """The user's input is wrong: a recipe, a file, a command-line argument."""


class ConfigError(InputError):
    """A recipe has an unknown key, a wrong type, or settings that contradict each other."""


class PluginError(InputError, LookupError):
    """A reward, prompt source, sampler or other plugin cannot be found, loaded or given its
    options."""


class DataError(InputError):
    """A prompt source cannot be read, or what it holds breaks a rule."""


class ModelError(InputError):
    """A model folder lacks something, or a model does not fit the recipe."""


class CheckpointError(InputError):
    """A checkpoint is missing, damaged, or belongs to another recipe or model."""


class RunError(RlLlmError, RuntimeError):
    """A run cannot go on: non-finite losses, a reward that keeps failing, nothing left to learn
    from."""


class EngineLost(RunError):
    """No engine generates any more: its process ended, or no server answers; a checkpoint lets the
    run go on later."""


class SandboxError(RunError):
    """What runs the programs that models write failed, or the kernel does not permit it: that says
    nothing of the program."""


class StorageError(RunError):
    """A file of a run cannot be written: the disk or a quota is full, or something forbids it."""


class PushRefused(InputError):
    """The hub, or a rule of ours, says no to a push; trying again would not help."""


class PushFailed(RunError):
    """A push was tried and did not get through; it may later."""
