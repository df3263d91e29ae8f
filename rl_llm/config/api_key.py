"""The key of a server, which a recipe gives by the name of an environment variable."""

import re

from rl_llm.errors import ConfigError

_VARIABLE = re.compile("[A-Za-z_][A-Za-z0-9_]*")

NO_VARIABLE = (
    "no name of an environment variable (letters, digits and _, and no digit first; what it holds "
    "is not repeated here, as it may be a key): put the key into a variable, and write that "
    "variable's name, such as"
)
"""What is wrong where `is_variable` is not; an example goes behind it."""


def is_variable(name: str) -> bool:
    """Return whether an environment variable can have this name."""
    return _VARIABLE.fullmatch(name) is not None


class ApiKey:
    """A server's key, if it asks for one; it shows itself in no message and no repr."""

    def __init__(self, value: str | None, *, variable: str, option: str) -> None:
        """`variable` names the environment variable that `value` was read from, and `option` is
        where the recipe names it."""
        self._value = (value or "").strip()
        self._variable = variable
        if not (self._value.isascii() and self._value.isprintable()) or " " in self._value:
            raise ConfigError(
                f"the environment variable {variable} ({option}) holds "
                "characters that no HTTP header can carry; set it to the key alone"
            )

    def __repr__(self) -> str:
        """Name the variable, and not what it holds."""
        return f"ApiKey({self._variable}, {'set' if self._value else 'not set'})"

    @property
    def headers(self) -> dict[str, str]:
        """What a request carries."""
        return {"Authorization": f"Bearer {self._value}"} if self._value else {}

    @property
    def way_out(self) -> str:
        """What to do when a server does not take the key."""
        if self._value:
            return f"the key in the environment variable {self._variable} is not the server's"
        return f"set the environment variable {self._variable} to the server's API key"

    def redact(self, text: str) -> str:
        """Take the key out of what a server says."""
        return text.replace(self._value, "[API key]") if self._value else text
