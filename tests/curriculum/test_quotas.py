"""Shares of sources, apportioned by hand."""

import json
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


def splits(quotas, *sizes):
    """Return what each of some draws gives the sources, when all are asked for what they get."""
    found = []
    for size in sizes:
        found.append(quotas.split(size))
        for source, count in found[-1].items():
            quotas.note(source, count)
    return found


def test_shares_that_divide_the_step_are_met_in_every_step():
    quotas = Quotas(pool("a", "b", "c"), {"c": 0.2, "b": 0.3, "a": 0.5})
    assert splits(quotas, 10, 10, 10) == 3 * [{"a": 5, "b": 3, "c": 2}]


def test_one_problem_a_step_goes_round_in_the_order_of_webster():
    # .7/1 .3/1 .7/3 .7/5 .7/7 (a tie, the first wins) .3/3 .7/9 .7/11 .3/5 .7/13
    quotas = Quotas(pool("a", "b"), {"a": 0.7, "b": 0.3})
    found = splits(quotas, *[1] * 10)
    assert "".join(max(split, key=split.get) for split in found) == "abaaabaaba"
    assert all(sum(split.values()) == 1 for split in found)


def test_shares_hold_whatever_the_sizes_of_the_draws():
    """A draw at every tenth step alone, and draws of 1, 0 and 2, do not fall in step with a."""
    totals = Counter()
    for split in splits(Quotas(pool("a", "b"), {"a": 0.7, "b": 0.3}), *([0] * 9 + [1]) * 200):
        totals.update(split)
    assert totals == {"a": 140, "b": 60}
    totals = Counter()
    for split in splits(Quotas(pool("a", "b"), {"a": 0.75}), *[1, 0, 2] * 100):
        totals.update(split)
    assert totals == {"a": 225, None: 75}


def test_who_had_more_than_its_part_waits_for_the_others():
    quotas = Quotas(pool("a", "b", "c"), {"a": 0.5, "b": 0.25, "c": 0.25})
    quotas.note("b", 4)  # Reviews, say. Of 8 problems b has 2, of 16 it has 4.
    assert quotas.split(4) == {"a": 3, "b": 0, "c": 1}
    splits(quotas, 4, 4, 4)
    assert quotas.split(4) == {"a": 2, "b": 1, "c": 1}


def test_what_was_asked_for_is_in_the_state():
    before, after = (Quotas(pool("a", "b"), {"a": 0.7}) for _ in range(2))
    whole = splits(Quotas(pool("a", "b"), {"a": 0.7}), *[1] * 10)
    splits(before, *[1] * 4)
    after.load_state_dict(json.loads(json.dumps(before.state_dict())))
    assert splits(after, *[1] * 6) == whole[4:]


def test_other_shares_than_those_of_the_state_start_anew():
    before, after = (Quotas(pool("a", "b"), {"a": share}) for share in (0.7, 0.5))
    splits(before, 100)
    after.load_state_dict(before.state_dict())
    assert after.split(10) == {"a": 5, None: 5}


def test_sources_without_a_quota_share_the_rest():
    quotas = Quotas(pool("a", "b", "c"), {"b": 0.25})
    assert quotas.split(8) == {"b": 2, None: 6}
    assert quotas.mask("b").tolist() == [True, False, True]
    assert quotas.mask(None).tolist() == [False, True, False]


def test_a_mask_covers_every_level_of_the_other_sources():
    quotas = Quotas(pool("a", "b", levels=2), {"a": 0.5})
    assert quotas.mask("a").tolist() == [False, False, True, True]
    assert quotas.mask(None).tolist() == [True, True, False, False]


def test_without_quotas_the_whole_pool_shares_everything():
    quotas = Quotas(pool("a", "b"), {})
    assert quotas.split(7) == {None: 7}
    assert not quotas.mask(None).any()


def test_a_long_run_gives_each_source_its_share():
    quotas = Quotas(pool("a", "b", "c"), {"a": 0.61, "b": 0.07})
    totals = Counter()
    for split in splits(quotas, *[3] * 100):
        totals.update(split)
    assert totals == {"a": 183, "b": 21, None: 96}


@given(
    weights=st.lists(st.integers(1, 1000), min_size=1, max_size=8),
    sizes=st.lists(st.integers(0, 4000), min_size=1, max_size=8),
)
def test_splits_fill_their_draws_and_keep_near_the_shares(weights, sizes):
    shares = {f"s{k}": weight / sum(weights) for k, weight in enumerate(weights)}
    totals = Counter()
    for size, split in zip(sizes, splits(Quotas(pool(*shares), shares), *sizes), strict=True):
        assert sum(split.values()) == size
        assert min(split.values()) >= 0
        totals.update(split)
        for source, share in shares.items():
            allowed = (1 + share * len(shares)) / 2
            assert abs(totals[source] - share * totals.total()) <= allowed + 1e-6


@given(
    weights=st.lists(st.integers(1, 9), min_size=1, max_size=5),
    asked=st.lists(st.integers(0, 20), min_size=5, max_size=5),
    size=st.integers(0, 40),
)
def test_each_problem_goes_to_the_highest_share_of_what_was_asked_for(weights, asked, size):
    shares = {f"s{k}": weight / sum(weights) for k, weight in enumerate(weights)}
    quotas = Quotas(pool(*shares), shares)
    seats = dict(zip(shares, asked, strict=False))
    for source, count in seats.items():
        quotas.note(source, count)
    split = quotas.split(size)
    after = {source: seats[source] + split[source] for source in shares}
    assert sum(split.values()) == size and min(split.values()) >= 0
    for giver in (source for source in shares if split[source]):
        last = weights[int(giver[1:])] / (2 * after[giver] - 1)
        for other in shares:
            assert last >= weights[int(other[1:])] / (2 * after[other] + 1) - 1e-9


def test_thirds_written_as_decimals_are_the_whole():
    quotas = Quotas(pool("a", "b", "c"), dict.fromkeys("abc", 0.3333333))
    totals = Counter()
    for split in splits(quotas, *[3] * 10):
        totals.update(split)
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
