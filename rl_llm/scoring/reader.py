"""What a completion's answer is, as the file of its reward says: for votes among completions."""

from collections.abc import Callable, Hashable, Sequence
from typing import Any

from rl_llm.errors import PluginError
from rl_llm.plugins import Plugin, resolve
from rl_llm.scoring.reward import Reward, described

_NAME = "read_answer"


def answer_reader(rewards: Sequence[Reward]) -> Callable[[str], Hashable | None] | None:
    """Return the function `read_answer` of the first reward on channel `correctness` whose file has
    one; None where no file says what an answer is.

    It takes the text of a completion; equal answers are one answer, and None is no answer. It runs
    in this process. What it raises, or an answer without a hash, becomes a `PluginError`.
    """
    plugins = (resolve(r.reference, kind="rewards") for r in rewards if r.channel == "correctness")
    found = next((plugin for plugin in plugins if hasattr(plugin.module, _NAME)), None)
    if found is None:
        return None
    reader = getattr(found.module, _NAME)
    return lambda text: _read(reader, text, found)


def _read(reader: Callable[[str], Any], text: str, plugin: Plugin) -> Hashable | None:
    try:
        answer = reader(text)
        hash(answer)
    except Exception as error:  # Somebody else's code: any failure becomes one message.
        raise PluginError(
            f"{plugin.origin}: {_NAME} failed on a completion: {described(error)}; it returns what "
            "can be compared and hashed, such as text or a number, and None for no answer"
        ) from error
    return answer  # type: ignore[no-any-return]
