"""docs/kl.md names every controller, option and default, and every form of the penalty."""

import inspect
import re
from pathlib import Path

from rl_llm.kl import CONTROLLERS, ESTIMATORS, LOSS_PENALTIES

PAGE = (Path(__file__).parents[2] / "docs" / "kl.md").read_text(encoding="utf-8")


def table(heading):
    """Return the cells of the rows of the first table whose first column has this heading."""
    (rows,) = re.findall(rf"^\| {heading} \|.*\n\|[-| ]+\|\n((?:\|.*\n)+)", PAGE, re.MULTILINE)
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows.splitlines()]


def names(cell):
    return re.findall(r"`([^`]+)`", cell)


def test_every_controller_has_a_row():
    assert [names(row[0]) for row in table("controller")] == [[name] for name in CONTROLLERS]


def test_every_option_has_a_row_with_its_default():
    on_page = {
        (controller, option): names(default)
        for options, default, controllers, _ in table("option")
        for option in names(options)
        for controller in names(controllers)
    }
    in_code = {
        (controller, name): [] if parameter.default in (parameter.empty, None) else [parameter]
        for controller, part in CONTROLLERS.items()
        for name, parameter in inspect.signature(part).parameters.items()
        if name != "total_steps"
    }
    assert on_page == {
        key: [str(parameter.default) for parameter in given] for key, given in in_code.items()
    }


def test_every_estimator_has_a_row():
    assert [names(row[0])[0] for row in table("name")] == sorted({*ESTIMATORS, *LOSS_PENALTIES})
