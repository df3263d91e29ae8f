"""Shares of sources, apportioned by hand."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rl_llm.curriculum.pool import PoolIndex
from rl_llm.curriculum.quotas import Quotas
from rl_llm.errors import ConfigError


def pool(*sources, levels=1):
    """One problem for each of the levels of each source, source by source."""
    num_buckets = len(sources) * levels
    of_bucket = tuple(source for source in sources for _ in range(levels))
    level_of = tuple(range(levels)) * len(sources)
    return PoolIndex(
        bucket_ids=np.arange(num_buckets, dtype=np.int32),
        bucket_names=tuple(f"{s}/level={k}" for s, k in zip(of_bucket, level_of, strict=True)),
        bucket_sources=of_bucket,
        bucket_levels=level_of,
        endless_K=np.zeros(num_buckets, np.bool_),
    )


def test_shares_that_divide_the_step_are_met_in_every_step():
    quotas = Quotas(pool("a", "b", "c"), {"c": 0.2, "b": 0.3, "a": 0.5})
    for step in (1, 2, 17):
        assert quotas.split(step, 10) == {"a": 5, "b": 3, "c": 2}


def test_one_problem_a_step_goes_round_in_the_order_of_webster():
    # .7/1 .3/1 .7/3 .7/5 .7/7 (a tie, the first wins) .3/3 .7/9 .7/11 .3/5 .7/13
    quotas = Quotas(pool("a", "b"), {"a": 0.7, "b": 0.3})
    splits = [quotas.split(step, 1) for step in range(1, 11)]
    assert "".join(max(split, key=split.get) for split in splits) == "abaaabaaba"
    assert all(sum(split.values()) == 1 for split in splits)


def test_sources_without_a_quota_share_the_rest():
    quotas = Quotas(pool("a", "b", "c"), {"b": 0.25})
    assert quotas.split(3, 8) == {"b": 2, None: 6}
    assert quotas.mask("b").tolist() == [True, False, True]
    assert quotas.mask(None).tolist() == [False, True, False]


def test_a_mask_covers_every_level_of_the_other_sources():
    quotas = Quotas(pool("a", "b", levels=2), {"a": 0.5})
    assert quotas.mask("a").tolist() == [False, False, True, True]
    assert quotas.mask(None).tolist() == [True, True, False, False]


def test_without_quotas_the_whole_pool_shares_everything():
    quotas = Quotas(pool("a", "b"), {})
    assert quotas.split(5, 7) == {None: 7}
    assert not quotas.mask(None).any()


def test_a_long_run_gives_each_source_its_share():
    quotas = Quotas(pool("a", "b", "c"), {"a": 0.61, "b": 0.07})
    totals = Counter()
    for step in range(1, 101):
        totals.update(quotas.split(step, 3))
    assert totals == {"a": 183, "b": 21, None: 96}


@given(
    weights=st.lists(st.integers(1, 1000), min_size=1, max_size=8),
    num_problems=st.integers(1, 40),
    step=st.integers(1, 2000),
)
def test_a_split_fills_the_step_and_keeps_near_the_shares_at_every_step(
    weights, num_problems, step
):
    shares = {f"s{k}": weight / sum(weights) for k, weight in enumerate(weights)}
    quotas = Quotas(pool(*shares), shares)
    split = quotas.split(step, num_problems)
    assert sum(split.values()) == num_problems
    assert min(split.values()) >= 0
    far = quotas.split(1, num_problems * step)  # the steps up to this one, together
    for source, share in shares.items():
        allowed = (1 + share * len(shares)) / 2
        assert abs(far[source] - share * num_problems * step) <= allowed + 1e-6


def test_thirds_written_as_decimals_are_the_whole():
    quotas = Quotas(pool("a", "b", "c"), dict.fromkeys("abc", 0.3333333))
    totals = Counter()
    for step in range(1, 11):
        totals.update(quotas.split(step, 3))
    assert totals == {"a": 10, "b": 10, "c": 10}


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ({"x": 0.5}, r"curriculum\.quotas\.x: data\.train has no source 'x'; known: gsm, math"),
        ({"maths": 0.5}, "did you mean 'math'"),
        ({"gsm": 0.0}, r"curriculum\.quotas\.gsm=0\.0: a share must be above 0 and at most 1"),
        ({"gsm": 1.5}, r"quotas\.gsm=1\.5: a share must"),
        ({"gsm": float("nan")}, r"quotas\.gsm=nan: a share must"),
        ({"gsm": 0.7, "math": 0.6}, r"sum to 1\.3: .* at most 1; lower one"),
        ({"gsm": 0.7, "math": 0.2}, r"sum to 0\.9, and every source has one"),
        ({"gsm": 1.0}, "sum to 1 and leave nothing for math; lower one"),
    ],
)
def test_shares_that_cannot_be_met_are_refused(shares, message):
    with pytest.raises(ConfigError, match=message):
        Quotas(pool("gsm", "math"), shares)
