"""What DeepSpeed is configured with."""

import pytest

from rl_llm.policy.launched import ZeroSettings
from rl_llm.policy.zero import deepspeed_config


@pytest.mark.parametrize("stage", [2, 3])
@pytest.mark.parametrize(("num_trained", "summed"), [(1000, 1000), (10**9, 500_000_000)])
def test_the_buffer_for_gradients_is_no_larger_than_what_is_trained(stage, num_trained, summed):
    settings = ZeroSettings(stage=stage, offloads_optimizer=False, offloads_weights=False)
    found = deepspeed_config(settings, num_ranks=2, casts=False, num_trained=num_trained)
    # By default it has room for 500,000,000 values, whatever is trained.
    assert found["zero_optimization"]["reduce_bucket_size"] == summed
