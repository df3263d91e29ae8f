"""What one process says, and what it refuses."""

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


def test_a_kind_of_launch_that_is_not_supported_is_refused(monkeypatch):
    class Sharded:
        distributed_type = DistributedType.FSDP

        def __init__(self, **_):
            pass

    monkeypatch.setattr(ranks_module, "PartialState", Sharded)
    with pytest.raises(ConfigError, match=r"FSDP.*recipes/accelerate/ddp.yaml or zero2.yaml"):
        Ranks()
