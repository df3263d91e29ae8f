"""What one process says, and what it refuses."""

import os
import subprocess
import sys

import torch

from rl_llm.policy import Ranks


def test_alone_every_call_is_the_identity():
    ranks = Ranks()
    assert (ranks.rank, ranks.num_ranks, ranks.is_main) == (0, 1, True)
    assert ranks.mine([1, 2, 3]) == ranks.gather([1, 2, 3]) == [1, 2, 3]
    assert ranks.from_main("x") == "x"
    tensor = torch.ones(2)
    ranks.sum_in_place([tensor])
    ranks.max_in_place(tensor)
    assert tensor.tolist() == [1.0, 1.0]


def test_a_launch_with_deepspeed_is_refused_and_not_dropped():
    program = "from rl_llm.policy.ranks import _launched_on_cpus; assert not _launched_on_cpus()"
    environment = os.environ | {"ACCELERATE_USE_DEEPSPEED": "true", "WORLD_SIZE": "2"}
    subprocess.run([sys.executable, "-c", program], env=environment, check=True)
