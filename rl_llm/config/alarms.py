"""The `alarms` section of a recipe."""

from typing import Literal

from rl_llm.config.base import Section

AlarmName = Literal[
    "reward", "overfit", "collapse", "length", "truncation", "one_answer", "duplicates"
]


class AlarmsSection(Section):
    """What looks wrong in a run's own numbers is said while it goes on."""

    watch: list[AlarmName] = [
        *("reward", "overfit", "collapse"),
        *("length", "truncation"),
        *("one_answer", "duplicates"),
    ]
    """Which alarms are on; `[]` turns all off."""

    stop: bool = False
    """End the run behind a checkpoint when an alarm is raised."""
