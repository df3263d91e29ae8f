"""What one process says, and what it refuses."""

from types import SimpleNamespace

import pytest
import torch
from accelerate.utils import DistributedType

from rl_llm.errors import ConfigError
from rl_llm.policy import Ranks
from rl_llm.policy import ranks as ranks_module


def test_alone_every_call_is_the_identity():
    ranks = Ranks()
    assert (ranks.rank, ranks.num_ranks, ranks.is_main) == (0, 1, True)
    assert ranks.mine([1, 2, 3]) == ranks.gather([1, 2, 3]) == [1, 2, 3]
    assert ranks.from_main("x") == "x"
    tensor = torch.ones(2)
    ranks.sum_in_place([tensor])
    ranks.max_in_place(tensor)
    assert tensor.tolist() == [1.0, 1.0]


class Wire:
    """What rank 0 of two says, as both hear it."""

    def __init__(self):
        self.said = None

    def rank(self, *, is_main):
        def from_main(value):
            if is_main:
                self.said = value
            return self.said

        return SimpleNamespace(is_main=is_main, from_main=from_main)


def test_what_rank_0_alone_does_is_heard_by_every_rank():
    wire, done = Wire(), []
    assert Ranks.on_main(wire.rank(is_main=True), lambda: done.append(1) or "written") == "written"
    assert Ranks.on_main(wire.rank(is_main=False), lambda: done.append(2)) == "written"
    assert done == [1]


def test_an_error_of_rank_0_is_raised_on_every_rank():
    def fail():
        raise ConfigError("full")

    wire = Wire()
    for is_main in (True, False):
        with pytest.raises(ConfigError, match="full"):
            Ranks.on_main(wire.rank(is_main=is_main), fail if is_main else lambda: None)


def test_a_kind_of_launch_that_is_not_supported_is_refused(monkeypatch):
    class Sharded:
        distributed_type = DistributedType.FSDP

        def __init__(self, **_):
            pass

    monkeypatch.setattr(ranks_module, "PartialState", Sharded)
    with pytest.raises(ConfigError, match=r"FSDP.*recipes/accelerate/ddp.yaml or zero2.yaml"):
        Ranks()
