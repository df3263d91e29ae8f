import numpy as np
import pytest

from rl_llm.config import NamedPart
from rl_llm.curriculum import (
    GATES,
    SAMPLERS,
    Informative,
    PoolIndex,
    Posterior,
    Uniform,
    build_gates,
    build_sampler,
)
from rl_llm.errors import ConfigError, PluginError

OWN_SAMPLER = """
from rl_llm.curriculum import Uniform

class Last(Uniform):
    def __init__(self, *, index, seed, group_size, shift: int = 0):
        super().__init__(index=index, seed=seed, group_size=group_size)
        self.shift = shift

class Lazy:
    def plan(self, step, num_problems, *, round=0, exclude=None):
        return []
"""


def build(name, **options):
    index = PoolIndex(bucket_ids=np.zeros(3, np.int32), bucket_names=("s/level=0",))
    return build_sampler(NamedPart(name=name, **options), index=index, seed=0, group_size=8)


@pytest.fixture
def own_file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(OWN_SAMPLER)
    return path


def test_every_name_in_the_tables_builds():
    assert {name: type(build(name)) for name in SAMPLERS} == {
        "posterior": Posterior,
        "uniform": Uniform,
    }
    assert [type(gate) for gate in build_gates([NamedPart(name=name) for name in GATES])] == [
        Informative
    ]


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(PluginError, match=r"curriculum\.sampler\.name='posteriour'.*'posterior'"):
        build("posteriour")
    with pytest.raises(PluginError, match=r"curriculum\.gates\.1\.name='informativ'"):
        build_gates([NamedPart(name="informative"), NamedPart(name="informativ")])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"flor": 0.1}, r"curriculum\.sampler\.flor: unknown option.*'floor'"),
        ({"floor": "much"}, r"curriculum\.sampler\.floor='much'"),
        ({"floor": 2.0}, r"curriculum\.sampler: floor=2\.0: must be from 0 to 1"),
        ({"kernel": "round"}, r"curriculum\.sampler\.kernel='round'.*'flat' or 'variance'"),
        ({"seed": 3}, r"curriculum\.sampler\.seed: unknown option"),
    ],
)
def test_wrong_options_name_their_path_in_the_recipe(options, message):
    with pytest.raises(ConfigError, match=message):
        build("posterior", **options)


def test_a_class_of_ones_own_is_found_by_file(own_file):
    sampler = build(f"{own_file}:Last", shift=2)
    assert sampler.shift == 2
    assert sorted(sampler.plan(0, 3)) == [0, 1, 2]


def test_a_class_that_is_missing_or_lacks_methods_is_refused(own_file):
    with pytest.raises(PluginError, match=r"defines no callable 'Lst' \(did you mean 'Last'\?\)"):
        build(f"{own_file}:Lst")
    with pytest.raises(PluginError, match="has no observe, beliefs, state_dict, load_state_dict"):
        build(f"{own_file}:Lazy")


def test_a_sampler_whose_state_no_checkpoint_can_hold_is_refused_at_once(own_file):
    with own_file.open("a") as file:
        file.write("class Forgetful(Last):\n    def state_dict(self):\n        return {}\n")
    with pytest.raises(PluginError, match=r"state_dict\(\) returned \{\}; it must return"):
        build(f"{own_file}:Forgetful")
