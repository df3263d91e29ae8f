"""Settings that a run would never read, or that would undo each other, are refused."""

import pytest

from rl_llm.config import parse_recipe
from rl_llm.config.curriculum import RefillSection
from rl_llm.errors import ConfigError

SMALLEST = {
    "model": {"path": "somewhere"},
    "data": {"train": [{"use": "arithmetic"}], "eval": [{"use": "arithmetic"}]},
    "rewards": [{"use": "exact_answer"}],
}


def parse(steps=10, **sections):
    return parse_recipe(
        {**SMALLEST, "run": {"name": "a", "steps": steps}, **sections}, where="test"
    )


def fault_of(**sections):
    with pytest.raises(ConfigError) as caught:
        parse(**sections)
    return str(caught.value).removeprefix("test: ")


def constant(**kl):
    return {"controller": {"name": "constant", "beta": 0.1}, **kl}


def test_a_refresh_behind_the_last_step_is_refused():
    def kl(every):
        return constant(reference={"mode": "snapshot", "refresh_every": every})

    assert parse(kl=kl(9))
    assert fault_of(kl=kl(10)).startswith(
        "kl.reference.refresh_every=10 with run.steps=10: the reference is never refreshed"
    )


def test_a_stagnation_that_takes_as_long_as_the_run_is_refused():
    def sections(patience):
        reference = {"mode": "snapshot", "refresh_on_stagnation": patience}
        return {"kl": constant(reference=reference), "eval": {"every": 3}}

    assert parse(**sections(3))  # Behind step 9, so the reference is refreshed behind step 10.
    assert fault_of(**sections(4)).startswith(
        "kl.reference.refresh_on_stagnation=4 with eval.every=3 and run.steps=10: so many "
    )


@pytest.mark.parametrize(("bound", "value"), [("ceiling", 0.01), ("floor", 0.5)])
def test_a_constant_outside_its_bound_is_refused(bound, value):
    assert fault_of(kl=constant(**{bound: value})) == (
        f"kl.controller.beta=0.1 with kl.{bound}={value}: the bound overrides a constant beta in "
        f"every step; set beta to {value}, or leave kl.{bound} out"
    )


@pytest.mark.parametrize("bound", ["ceiling", "floor"])
def test_a_constant_at_its_bound_stands(bound):
    assert parse(kl=constant(**{bound: 0.1})).kl.controller.options == {"beta": 0.1}


def test_a_refill_of_groups_that_nothing_drops_is_refused():
    refill = {"max_rounds": 5}
    assert parse(curriculum={"refill": refill})
    assert fault_of(curriculum={"refill": refill, "gates": []}) == (
        "curriculum.refill.max_rounds=5 with curriculum.gates=[]: no group is dropped, so there is "
        "nothing to refill; use max_rounds 0, or name a gate"
    )


def test_an_end_of_refills_that_never_begin_is_refused():
    assert parse(curriculum={"refill": {"max_rounds": 1, "enough": 0.5}})
    assert fault_of(curriculum={"refill": {"enough": 0.5}}) == (
        "curriculum.refill.enough=0.5 with curriculum.refill.max_rounds=0: a step never draws "
        "again, so nothing reads it; set max_rounds, such as 4, or leave enough out"
    )
    assert parse(curriculum={"refill": {"max_rounds": 1, "within": "pool"}})
    assert fault_of(curriculum={"refill": {"within": "pool"}}) == (
        "curriculum.refill.within=pool with curriculum.refill.max_rounds=0: a step never draws "
        "again, so nothing reads it; set max_rounds, such as 4, or leave within out"
    )


@pytest.mark.parametrize(
    ("share", "problems_per_step", "groups"),
    [(1.0, 4, 4), (0.5, 4, 2), (0.5, 5, 3), (0.3, 10, 3), (0.55, 100, 55), (0.01, 4, 1)],
)
def test_what_is_enough_for_a_step_is_rounded_up_to_a_whole_group(share, problems_per_step, groups):
    assert RefillSection(enough=share).num_enough(problems_per_step) == groups
