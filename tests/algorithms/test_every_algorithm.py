"""What holds for every algorithm, and what each one's own options do.

Legend: P groups, G completions of each, B rows, T response tokens.
"""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rl_llm.algorithms import ALGORITHMS, ScoredBatch, TokenTerms, Totals
from rl_llm.policy.pack import count, score_batch, train_groups
from rl_llm.records import Completion, Group, Problem, Score, ScoredGroup

WITH_GROUP_BASELINE = {"grpo", "dr_grpo", "dapo", "gspo", "cispo", "rloo"}

each_algorithm = pytest.mark.parametrize("name", ALGORITHMS)


def batch_of(rewards_PG, *, lengths_PG=None, most=100):
    return ScoredBatch(
        rewards_PG=rewards_PG,
        counted_PG=torch.ones_like(rewards_PG, dtype=torch.bool),
        parts_PGR=rewards_PG[:, :, None],
        weights_R=rewards_PG.new_ones(1),
        lengths_PG=torch.ones_like(rewards_PG).long() if lengths_PG is None else lengths_PG,
        max_response_tokens=most,
    )


def terms_of(log_ratios, advantages, mask=None):
    log_ratio_BT = torch.tensor(log_ratios, dtype=torch.float64)
    old_BT = torch.full_like(log_ratio_BT, -1.0)
    return TokenTerms(
        logprobs_BT=(old_BT + log_ratio_BT).requires_grad_(),
        old_logprobs_BT=old_BT,
        advantages_BT=torch.tensor(advantages, dtype=torch.float64),
        response_mask_BT=torch.ones_like(log_ratio_BT, dtype=torch.bool)
        if mask is None
        else torch.tensor(mask),
    )


def gradient_of(algorithm, terms, totals):
    loss = algorithm.reduce(algorithm.token_loss(terms), terms.response_mask_BT, totals)
    (gradient_BT,) = torch.autograd.grad(loss, terms.logprobs_BT)
    return loss.detach(), gradient_BT


def test_the_table_holds_every_algorithm_and_each_says_its_name():
    assert set(ALGORITHMS) == {
        *("reinforce", "a2c", "grpo", "dr_grpo", "dapo", "gspo", "cispo", "rloo", "reinforce_pp"),
        "ppo",
    }
    assert all(build().name == name for name, build in ALGORITHMS.items())
    assert {name for name, build in ALGORITHMS.items() if build().critic} == {"a2c", "ppo"}
    assert {
        name for name in ALGORITHMS if ALGORITHMS[name]().has_group_baseline
    } == WITH_GROUP_BASELINE


def test_those_that_divide_by_the_deviation_of_a_group_say_so():
    """A group whose rewards are ten times those of another: only that division makes them alike."""
    saying = {name for name, build in ALGORITHMS.items() if build().divides_by_group}
    assert saying == {"grpo", "dapo", "gspo", "cispo"}
    for name in ("grpo", "gspo", "cispo"):
        assert not ALGORITHMS[name](scale="batch").divides_by_group
        assert not ALGORITHMS[name](scale="none").divides_by_group
    rewards_PG = torch.tensor([[0.0, 0.0, 0.0, 10.0], [0.0, 0.0, 0.0, 1.0]])
    for name, build in ALGORITHMS.items():
        ten, one = build().advantages(batch_of(rewards_PG))
        assert torch.allclose(ten, one, rtol=1e-2) == (name in saying)


@pytest.mark.parametrize("name", sorted(WITH_GROUP_BASELINE))
@pytest.mark.parametrize("group_size", [6, 7, 12])
def test_groups_of_equal_rewards_have_an_advantage_of_exactly_zero(name, group_size):
    cents = torch.arange(1, 121, dtype=torch.float32)
    equal_PG = (cents / 100)[:, None].expand(120, group_size)
    mixed_PG = torch.arange(group_size, dtype=torch.float32)[None, :]
    batch = batch_of(torch.cat([equal_PG, mixed_PG]))
    combinations = [{}]
    if name in ("grpo", "dapo", "gspo", "cispo"):
        combinations.append({"combine": "normalise_then_sum"})
    for options in combinations:
        found = ALGORITHMS[name](**options).advantages(batch)
        assert (found[:120] == 0).all()
        assert (found[120] != 0).any()


@pytest.mark.parametrize("name", sorted(WITH_GROUP_BASELINE))
def test_groups_of_equal_rewards_change_no_other_advantage(name):
    mixed_PG = torch.tensor([[1.0, 0.0, 0.0], [1.0, 1.0, 0.0]], dtype=torch.float64)
    equal_PG = torch.full((2, 3), 0.7, dtype=torch.float64)
    for options in ({}, {"scale": "batch"}, {"combine": "normalise_then_sum"}):
        try:
            algorithm = ALGORITHMS[name](**options)
        except TypeError:  # Not every algorithm leaves the choice open.
            continue
        alone = algorithm.advantages(batch_of(mixed_PG))
        beside = algorithm.advantages(batch_of(torch.cat([mixed_PG, equal_PG])))
        torch.testing.assert_close(beside[:2], alone)


def group_of(*totals):
    """A group of completions of two tokens that ended by themselves."""
    completion = Completion(
        token_ids=(3, 1), logprobs=(-1.0, -1.0), text="", finish_reason="stop", policy_version=0
    )
    return ScoredGroup(
        group=Group(
            problem=Problem(key="0", prompt="q", answer="a"),
            prompt_ids=(5,),
            completions=(completion,) * len(totals),
        ),
        scores=tuple(Score(total=t, parts={"r": t}, correct=t == 1.0) for t in totals),
    )


@each_algorithm
def test_groups_of_equal_rewards_are_in_no_denominator_or_are_learnt_from(name):
    groups = [group_of(*[0.7] * 7), group_of(1.0, *[0.0] * 6)]
    algorithm = ALGORITHMS[name]()
    advantages_PG = algorithm.advantages(score_batch(groups))
    kept = train_groups(groups, advantages_PG, algorithm)
    rows = 7 if name in WITH_GROUP_BASELINE else 14
    expected = Totals(num_tokens=2 * rows, num_sequences=rows, max_response_tokens=9)
    assert count(kept, max_response_tokens=9) == expected


@each_algorithm
@pytest.mark.parametrize("garbage", [math.nan, math.inf, -math.inf, 1e30])
def test_what_is_masked_reaches_neither_loss_nor_gradient(name, garbage):
    mask = [[True, True, False], [True, False, False]]
    clean = terms_of([[0.3, -0.4, 0], [0.1, 0, 0]], [[1.5, -2, 0], [0.5, 0, 0]], mask)
    out = ~clean.response_mask_BT
    dirty = TokenTerms(
        logprobs_BT=clean.logprobs_BT.detach().masked_fill(out, garbage).requires_grad_(),
        old_logprobs_BT=clean.old_logprobs_BT.masked_fill(out, -garbage),
        advantages_BT=clean.advantages_BT.masked_fill(out, garbage),
        response_mask_BT=clean.response_mask_BT,
    )
    totals = Totals(num_tokens=3, num_sequences=2, max_response_tokens=3)
    algorithm = ALGORITHMS[name]()
    loss, gradient_BT = gradient_of(algorithm, clean, totals)
    found_loss, found_BT = gradient_of(algorithm, dirty, totals)
    assert torch.equal(found_loss, loss) and torch.equal(found_BT, gradient_BT)
    assert (found_BT[out] == 0).all() and gradient_BT.abs().sum() > 0
    assert (algorithm.token_loss(dirty)[out] == 0).all()
    flags_BT = algorithm.is_clipped(dirty)
    assert torch.equal(flags_BT, algorithm.is_clipped(clean)) and not flags_BT[out].any()


rows = st.lists(
    st.lists(st.tuples(st.floats(-0.5, 0.5), st.floats(-2, 2)), min_size=1, max_size=4),
    min_size=2,
    max_size=6,
)


@each_algorithm
@given(rows=rows, cut=st.integers(1, 5))
def test_shares_of_micro_batches_add_up_in_loss_and_gradient(name, rows, cut):
    padded = [[*row, *[(0.0, 0.0)] * (4 - len(row))] for row in rows]
    whole = terms_of(
        [[ratio for ratio, _ in row] for row in padded],
        [[advantage for _, advantage in row] for row in padded],
        [[t < len(row) for t in range(4)] for row in rows],
    )
    totals = Totals(num_tokens=sum(map(len, rows)), num_sequences=len(rows), max_response_tokens=4)
    algorithm = ALGORITHMS[name]()
    loss, gradient_BT = gradient_of(algorithm, whole, totals)
    pieces = [
        TokenTerms(**{key: value[part] for key, value in vars(whole).items()})
        for part in (slice(None, cut), slice(cut, None))
        if len(whole.logprobs_BT[part])
    ]
    shares = [algorithm.reduce(algorithm.token_loss(p), p.response_mask_BT, totals) for p in pieces]
    (found_BT,) = torch.autograd.grad(sum(shares), whole.logprobs_BT)
    torch.testing.assert_close(sum(shares).detach(), loss)
    torch.testing.assert_close(found_BT, gradient_BT)


@each_algorithm
def test_truncated_completions_are_learnt_from_unless_they_are_masked(name):
    assert not ALGORITHMS[name](truncated="mask").trains_truncated
    assert ALGORITHMS[name](truncated="train").trains_truncated
    assert ALGORITHMS[name](truncated="penalise").trains_truncated


@each_algorithm
def test_a_penalty_for_length_takes_worth_away(name):
    rewards_PG = torch.tensor([[1.0, 1.0], [0.0, 0.0]], dtype=torch.float64)
    batch = batch_of(rewards_PG, lengths_PG=torch.tensor([[10, 95], [10, 10]]))
    plain = ALGORITHMS[name](truncated="train").advantages(batch)
    assert plain[0, 0] == plain[0, 1]
    found = ALGORITHMS[name](truncated="penalise", overlong_cache=10).advantages(batch)
    # Half of the last ten tokens.
    assert found[0, 0] > found[0, 1]
    if ALGORITHMS[name]().critic:
        assert found.tolist() == [[1.0, 0.5], [0.0, 0.0]]


@each_algorithm
def test_the_entropy_bonus_is_handed_on_and_off_by_default(name):
    assert ALGORITHMS[name]().entropy_bonus == 0.0
    assert ALGORITHMS[name](entropy_bonus=0.01).entropy_bonus == 0.01


@each_algorithm
@pytest.mark.parametrize(
    ("options", "fragments"),
    [
        ({"entropy_bonus": -0.1}, ["entropy_bonus=-0.1", "0 or more"]),
        ({"truncated": "train", "overlong_cache": 9}, ["overlong_cache=9", "'train'", "penalise"]),
        ({"truncated": "penalise", "overlong_cache": 0}, ["overlong_cache=0", "1 or more"]),
    ],
)
def test_options_that_mean_nothing_are_refused_with_the_way_out(name, options, fragments):
    with pytest.raises(ValueError, match=r"overlong_cache|entropy_bonus") as refused:
        ALGORITHMS[name](**options)
    assert all(fragment in str(refused.value) for fragment in fragments)


@pytest.mark.parametrize(
    ("name", "options", "fragments"),
    [
        ("grpo", {"dual_clip": 1.28}, ["dual_clip=1.28", "1 + clip_high = 1.28", "3"]),
        ("gspo", {"clip_low": 0.0}, ["clip_low=0.0", "0.0003"]),
        ("cispo", {"max_ratio": 1.0}, ["max_ratio=1.0", "more than 1"]),
        ("gspo", {"scale": "none", "combine": "normalise_then_sum"}, ["scale='none'", "batch"]),
        ("ppo", {"length_adaptive": True, "lambda_policy": 0.9}, ["lambda_policy=0.9", "leave"]),
        ("a2c", {"length_adaptive": True, "lambda_policy": 0.9}, ["lambda_policy=0.9", "leave"]),
        ("ppo", {"lambda_critic": 1.5}, ["lambda_critic=1.5", "0 to 1"]),
        ("ppo", {"gamma": -0.1}, ["gamma=-0.1", "0 to 1"]),
        ("ppo", {"critic_lr": 0.0}, ["critic_lr=0.0", "more than 0"]),
        ("ppo", {"critic_warmup_steps": -1}, ["critic_warmup_steps=-1", "0 or more"]),
        ("a2c", {"value_clip": 0.0}, ["value_clip=0.0", "null"]),
    ],
)
def test_options_of_one_algorithm_that_mean_nothing_are_refused(name, options, fragments):
    with pytest.raises(ValueError) as refused:
        ALGORITHMS[name](**options)
    assert all(fragment in str(refused.value) for fragment in fragments)


def losses(name, terms, **options):
    return ALGORITHMS[name](**options).token_loss(terms).detach()


def flags(name, terms, **options):
    return ALGORITHMS[name](**options).is_clipped(terms).tolist()


FAR = terms_of([[math.log(4.0), math.log(0.5), math.log(4.0)]], [[-2.0, -2.0, 2.0]])


def test_a_dual_clip_bounds_what_a_bad_token_pays_and_stops_its_pull():
    # r A = -8 is held at 3 x -2; .5 is held at .8; a good token's 4 at 1.28, as without it
    torch.testing.assert_close(
        losses("grpo", FAR, dual_clip=3.0), torch.tensor([[6.0, 1.6, -2.56]]).double()
    )
    assert losses("grpo", FAR)[0, 0] == pytest.approx(8.0)
    assert flags("grpo", FAR, dual_clip=3.0) == [[True, True, True]]
    assert flags("grpo", FAR) == [[False, True, True]]
    totals = Totals(num_tokens=1, num_sequences=1, max_response_tokens=1)
    _, gradient_BT = gradient_of(ALGORITHMS["grpo"](dual_clip=3.0), FAR, totals)
    assert gradient_BT.tolist() == [[0.0, 0.0, 0.0]]


def test_clips_are_those_that_the_page_names():
    # 1.25 lies inside DAPO's clip, which is our GRPO's too, and outside the symmetric one.
    once = terms_of([[math.log(1.25)]], [[1.0]])
    wide = {name: losses(name, once).item() for name in ("grpo", "dapo")}
    assert wide == {"grpo": pytest.approx(-1.25), "dapo": pytest.approx(-1.25)}
    for name in ("dr_grpo", "rloo", "reinforce_pp", "ppo"):
        assert losses(name, once).item() == pytest.approx(-1.2)


def test_gspo_takes_the_geometric_mean_of_the_ratios_of_a_response():
    # e^.0006 and e^-.0002: s = e^.0002, inside the clip; every token carries s A
    inside = terms_of([[0.0006, -0.0002]], [[1.0, 1.0]])
    torch.testing.assert_close(
        losses("gspo", inside), torch.full((1, 2), -math.exp(0.0002)).double()
    )
    assert flags("gspo", inside) == [[False, False]]
    totals = Totals(num_tokens=2, num_sequences=1, max_response_tokens=2)
    _, gradient_BT = gradient_of(ALGORITHMS["gspo"](), inside, totals)
    torch.testing.assert_close(gradient_BT, torch.full((1, 2), -math.exp(0.0002) / 2).double())


def test_gspo_clips_a_response_whole():
    # means .0005 and -.0005: outside 1.0004, and outside .9997
    outside = terms_of([[0.0012, -0.0002], [-0.0012, 0.0002]], [[1.0, 1.0], [-1.0, -1.0]])
    expected = torch.tensor([[-1.0004] * 2, [0.9997] * 2]).double()
    torch.testing.assert_close(losses("gspo", outside), expected)
    assert flags("gspo", outside) == [[True, True], [True, True]]
    totals = Totals(num_tokens=4, num_sequences=2, max_response_tokens=2)
    assert (gradient_of(ALGORITHMS["gspo"](), outside, totals)[1] == 0).all()


def test_gspo_counts_the_tokens_of_the_response_and_not_the_padding():
    padded = terms_of([[0.0006, 5.0]], [[1.0, 1.0]], [[True, False]])
    assert flags("gspo", padded)[0][0]
    assert losses("gspo", padded, clip_high=0.001)[0, 0] == pytest.approx(-math.exp(0.0006))


def test_cispo_cuts_the_weight_and_keeps_the_gradient():
    # log pi = -1 + log ratio; weights 2 and, of 8, 5
    terms = terms_of([[math.log(2.0), math.log(8.0)]], [[1.0, -3.0]])
    expected = [-2 * (math.log(2) - 1), 15 * (math.log(8) - 1)]
    torch.testing.assert_close(losses("cispo", terms), torch.tensor([expected]).double())
    totals = Totals(num_tokens=2, num_sequences=1, max_response_tokens=2)
    _, gradient_BT = gradient_of(ALGORITHMS["cispo"](), terms, totals)
    torch.testing.assert_close(gradient_BT, torch.tensor([[-1.0, 7.5]]).double())
    assert flags("cispo", terms) == [[False, True]]


def test_those_without_a_ratio_say_so():
    """Half as likely as when it was drawn: a token's gradient is halved where there is a ratio."""
    once = terms_of([[math.log(0.5)]], [[1.0]])
    totals = Totals(num_tokens=1, num_sequences=1, max_response_tokens=1)
    for build in ALGORITHMS.values():
        _, gradient_BT = gradient_of(build(), once, totals)
        assert gradient_BT.item() == pytest.approx(-0.5 if build().has_ratio else -1.0)
    assert {name for name in ALGORITHMS if not ALGORITHMS[name]().has_ratio} == {
        "reinforce",
        "a2c",
    }


@pytest.mark.parametrize("name", ["reinforce", "a2c"])
def test_the_plain_policy_gradient_knows_no_ratio(name):
    # log pi = -1 + .7 and -1 - .2
    terms = terms_of([[0.7, -0.2]], [[2.0, -1.0]])
    torch.testing.assert_close(losses(name, terms), torch.tensor([[0.6, -1.2]]).double())
    assert flags(name, terms) == [[False, False]]


def test_reductions_are_those_that_the_page_names():
    loss_BT = torch.tensor([[1.0, 2.0], [6.0, 0.0]])
    mask_BT = torch.tensor([[True, True], [True, False]])
    totals = Totals(num_tokens=3, num_sequences=2, max_response_tokens=10)
    found = {
        name: round(float(build().reduce(loss_BT, mask_BT, totals)), 6)
        for name, build in ALGORITHMS.items()
    }
    of_tokens, of_sequences, fixed = 3.0, (1.5 + 6) / 2, 9 / 20
    assert found == {
        **dict.fromkeys(["grpo", "dapo", "cispo", "reinforce_pp", "ppo"], of_tokens),
        **dict.fromkeys(["gspo"], of_sequences),
        **dict.fromkeys(["dr_grpo", "rloo", "reinforce", "a2c"], fixed),
    }


def test_baselines_and_scales_are_those_of_the_papers():
    batch = batch_of(torch.tensor([[1.0, 0.0], [1.0, 1.0]], dtype=torch.float64))
    found = {
        name: build().advantages(batch).flatten().tolist() for name, build in ALGORITHMS.items()
    }
    unit = 0.5 / (0.5**0.5 + 1e-4)
    scaled = [unit, -unit, 0.0, 0.0]
    # mean .75 over the batch; squares 3 x .0625 + .5625 = .75, over 3: .25, deviation .5
    centred = [0.25, -0.75, 0.25, 0.25]
    expected = {
        **dict.fromkeys(["grpo", "dapo", "gspo", "cispo"], scaled),
        "dr_grpo": [0.5, -0.5, 0.0, 0.0],
        "rloo": [1.0, -1.0, 0.0, 0.0],
        "reinforce": centred,
        "reinforce_pp": [value / 0.5001 for value in centred],
        **{name: [1.0, 0.0, 1.0, 1.0] for name in ("a2c", "ppo")},
    }
    assert found == {name: pytest.approx(values) for name, values in expected.items()}


def test_a_critic_is_told_nothing_of_rewards_that_failed():
    batch = batch_of(torch.tensor([[1.0, 9.0]], dtype=torch.float64))
    batch = replace(batch, counted_PG=torch.tensor([[True, False]]))
    assert ALGORITHMS["ppo"]().advantages(batch).tolist() == [[1.0, 0.0]]


def test_the_critics_rules_carry_its_options():
    critic = ALGORITHMS["ppo"](critic_lr=0.5, critic_warmup_steps=7, whiten=False).critic
    assert (critic.lr, critic.warmup_steps, critic.whiten) == (0.5, 7, False)
    assert ALGORITHMS["ppo"]().critic.whiten and not ALGORITHMS["a2c"]().critic.whiten


def test_the_value_loss_takes_the_worse_of_the_clipped_and_the_free_value():
    now, old, target = (torch.tensor([row]) for row in ([1.0, 0.5, 0.1], [0.0] * 3, [1.0, 0.4, 1]))
    # held at .2, .2 and .1: (.2 - 1)^2, (.2 - .4)^2 and (.1 - 1)^2 over 2
    clipped = ALGORITHMS["ppo"]().critic.value_loss(now, old, target)
    torch.testing.assert_close(clipped, torch.tensor([[0.32, 0.02, 0.405]]))
    free = ALGORITHMS["a2c"]().critic.value_loss(now, old, target)
    torch.testing.assert_close(free, torch.tensor([[0.0, 0.005, 0.405]]))
