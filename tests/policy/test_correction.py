"""What a correction makes of the gradient: by enumeration of every response, and on a model.

In the first part the policy is a table: logits over 5 tokens at the start and after each first
token, in float64. mu draws, old is where the update started, pi is the policy now. The reduction is
the mean under mu, so every gradient is an exact expectation. Legend: K prefixes, B all responses, T
1 or 2 positions.
"""

import copy
import math
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch

from rl_llm.algorithms import Totals, cispo, grpo, mis, ppo, reinforce, tis, uncorrected
from rl_llm.config import OptimSection, RolloutSection
from rl_llm.errors import ConfigError
from rl_llm.plugins import load_module
from rl_llm.policy import Ranks
from rl_llm.policy.backend import Plain
from rl_llm.policy.behaviour import build_correction, check_correction
from rl_llm.policy.forward import ResponseLogprobs
from rl_llm.policy.objective import PolicyObjective
from rl_llm.policy.pack import TokenBatch, TrainGroup, TrainRow, collate
from rl_llm.policy.penalty import Penalty
from rl_llm.policy.start import MicroBatch, Start
from rl_llm.policy.update import TokenSums
from rl_llm.seeds import derive_rng

engines = load_module(Path(__file__).with_name("engines.py"))

V = 5
CPU = torch.device("cpu")
UNCUT = {"tis": tis(cap=math.inf), "mis": mis(low=0.0, high=math.inf)}


def table(name):
    return torch.from_numpy(derive_rng("correction", name).normal(size=(1 + V, V)))


PI, OLD, MU, REF = table("pi"), table("old"), table("mu"), table("ref")


class Table:
    """A policy with every response of a length; called like a `ResponseScorer`."""

    def __init__(self, logits_KV, *, length):
        self.logits_KV = logits_KV.clone().requires_grad_()
        self.tokens_BT = torch.tensor(list(product(range(V), repeat=length)))

    def logprobs_BT(self, logits_KV):
        rows_BT = torch.zeros_like(self.tokens_BT)
        rows_BT[:, 1:] = 1 + self.tokens_BT[:, :-1]
        return logits_KV.log_softmax(-1)[rows_BT, self.tokens_BT]

    def __call__(self, batch, *, entropy_gradient=False):
        assert batch.response_ids_BT is self.tokens_BT
        log_V = self.logits_KV[0].log_softmax(0)
        entropy = -(log_V.exp() * log_V).sum()
        now_BT = self.logprobs_BT(self.logits_KV)
        return ResponseLogprobs(logprobs_BT=now_BT, entropy_BT=entropy.expand_as(now_BT))

    def probability_B(self, logits_KV):
        return self.logprobs_BT(logits_KV).sum(1).exp()

    def gradient(self, scalar):
        (found,) = torch.autograd.grad(scalar, [self.logits_KV])
        return found


def found_gradient(policy, correction, worth_B, *, algorithm, old, mu, is_stale=True, beta=0.0):
    """Return the expected gradient, under mu, of the policy loss and a k2 penalty to REF."""
    mu_B = policy.probability_B(mu).detach()
    algorithm = replace(algorithm, reduce=lambda values_BT, mask_BT, _: mu_B @ values_BT.sum(1))
    blank = dict.fromkeys(TokenBatch.__dataclass_fields__)
    batch = TokenBatch(
        **blank
        | {
            "response_ids_BT": policy.tokens_BT,
            "response_mask_BT": torch.ones_like(policy.tokens_BT, dtype=torch.bool),
            "engine_logprobs_BT": policy.logprobs_BT(mu),
            "is_stale_B": torch.full((len(mu_B),), is_stale),
        }
    )
    start = Start(
        advantages_BT=worth_B[:, None].expand_as(policy.tokens_BT),
        logprobs_BT=policy.logprobs_BT(old),
        ref_logprobs_BT=policy.logprobs_BT(REF),
    )
    objective = PolicyObjective(
        backend=Plain([[policy.logits_KV]], optim=OptimSection(), ranks=Ranks()),
        scorer=policy,
        algorithm=algorithm,
        correction=correction,
        reference=None,
        penalty=Penalty(beta=beta),
    )
    policy.logits_KV.grad = None
    totals = Totals(num_tokens=1, num_sequences=1, max_response_tokens=1)
    objective.accumulate(MicroBatch(tokens=batch, start=start), totals, TokenSums(CPU), learns=True)
    return policy.logits_KV.grad


def worths(policy):
    return torch.from_numpy(derive_rng("worth").normal(size=len(policy.tokens_BT)))


def on_policy(policy, worth_B):
    """Return minus the gradient of the expected worth under the policy itself."""
    return -policy.gradient(policy.probability_B(policy.logits_KV) @ worth_B)


def divergence_gradient(policy, *, prefixes_of):
    """Return the sum over prefixes of their probability times grad KL(pi || REF) of the token."""
    first_V = prefixes_of[0].softmax(0)
    reach_K = torch.cat([torch.ones(1, dtype=torch.float64), first_V])
    if policy.tokens_BT.shape[1] == 1:
        reach_K[1:] = 0.0
    log_pi_KV, log_ref_KV = policy.logits_KV.log_softmax(-1), REF.log_softmax(-1)
    return policy.gradient(reach_K @ (log_pi_KV.exp() * (log_pi_KV - log_ref_KV)).sum(-1))


def differ(first, second):
    """Say whether two gradients are further apart than a tenth of the longer one."""
    return (first - second).norm() > 0.1 * max(first.norm(), second.norm())


same = torch.testing.assert_close
both = pytest.mark.parametrize("name", ["tis", "mis"])


@both
@pytest.mark.parametrize("algorithm", [grpo(), reinforce()], ids=["grpo", "reinforce"])
def test_with_mu_drawing_a_token_the_first_update_pulls_as_if_old_had_drawn_it(name, algorithm):
    policy = Table(OLD, length=1)
    worth_B = worths(policy)
    settings = {"algorithm": algorithm, "old": OLD, "mu": MU}
    right = on_policy(policy, worth_B)
    same(found_gradient(policy, UNCUT[name], worth_B, **settings), right)
    fresh = found_gradient(policy, uncorrected(), worth_B, is_stale=False, **settings)
    assert differ(fresh, right)


@both
def test_later_updates_pull_as_if_pi_had_drawn_it_where_nothing_is_clipped(name):
    """The weight is old / mu and the ratio pi / old, though pi has moved since."""
    policy = Table(PI, length=1)
    worth_B, free = worths(policy), cispo(max_ratio=1e9)
    found = found_gradient(policy, UNCUT[name], worth_B, algorithm=free, old=OLD, mu=MU)
    same(found, on_policy(policy, worth_B))


def test_over_two_tokens_mis_is_right_and_tis_keeps_the_prefixes_that_mu_drew():
    policy = Table(OLD, length=2)
    worth_B = worths(policy)
    settings = {"algorithm": grpo(), "old": OLD, "mu": MU}
    right = on_policy(policy, worth_B)
    same(found_gradient(policy, UNCUT["mis"], worth_B, **settings), right)
    assert differ(found_gradient(policy, UNCUT["tis"], worth_B, **settings), right)


@both
def test_the_k2_penalty_gives_the_gradient_of_the_divergence_of_pi_from_the_reference(name):
    policy = Table(PI, length=1)
    nothing_B = torch.zeros(V, dtype=torch.float64)
    settings = {"algorithm": grpo(), "old": OLD, "mu": MU, "beta": 1.0}
    right = divergence_gradient(policy, prefixes_of=PI)
    same(found_gradient(policy, UNCUT[name], nothing_B, **settings), right)
    fresh = found_gradient(policy, uncorrected(), nothing_B, is_stale=False, **settings)
    assert differ(fresh, right)


@pytest.mark.parametrize(("name", "prefixes"), [("tis", MU), ("mis", OLD)], ids=["tis", "mis"])
def test_over_two_tokens_the_penalty_stands_behind_prefixes_of_mu_or_of_old(name, prefixes):
    policy = Table(OLD, length=2)
    nothing_B = torch.zeros(V**2, dtype=torch.float64)
    settings = {"algorithm": grpo(), "old": OLD, "mu": MU, "beta": 1.0}
    found = found_gradient(policy, UNCUT[name], nothing_B, **settings)
    same(found, divergence_gradient(policy, prefixes_of=prefixes))
    assert differ(found, divergence_gradient(policy, prefixes_of=MU if name == "mis" else OLD))


MU_BY_HAND, OLD_BY_HAND = (
    torch.tensor([p] * (1 + V), dtype=torch.float64).log()
    for p in ((0.1, 0.3, 0.2, 0.2, 0.2), (0.5, 0.2, 0.1, 0.1, 0.1))
)


@pytest.mark.parametrize(
    ("correction", "weight"), [(tis(), 2), (tis(cap=4.0), 4), (tis(cap=9.0), 5), (mis(high=4.9), 0)]
)
def test_where_a_bound_bites_the_weight_is_the_cap_or_0(correction, weight):
    """Token 0, drawn once in 10 times by mu and once in 2 by old, is worth 1 and the others 0."""
    policy = Table(OLD_BY_HAND, length=1)
    first_B = torch.eye(V, dtype=torch.float64)[0]
    found = found_gradient(
        policy, correction, first_B, algorithm=grpo(), old=OLD_BY_HAND, mu=MU_BY_HAND
    )
    # -mu w A (1 - pi) for its own logit, mu w A pi for the others.
    expected = 0.1 * weight * torch.tensor([-0.5, 0.2, 0.1, 0.1, 0.1], dtype=torch.float64)
    same(found[0], expected)


def test_once_pi_has_moved_the_weight_stays_that_of_the_start_and_the_ratio_stands_beside_it():
    """Now pi draws token 0 in 6 of 10 cases: its ratio to old is 1.2, within the clip."""
    pi = torch.tensor([0.6, 0.1, 0.1, 0.1, 0.1], dtype=torch.float64).log().expand(1 + V, V)
    policy = Table(pi, length=1)
    first_B = torch.eye(V, dtype=torch.float64)[0]
    found = found_gradient(policy, tis(), first_B, algorithm=grpo(), old=OLD_BY_HAND, mu=MU_BY_HAND)
    expected = 0.1 * 2 * 1.2 * torch.tensor([-0.4, 0.1, 0.1, 0.1, 0.1], dtype=torch.float64)
    same(found[0], expected)


@pytest.mark.parametrize("correction", [tis(cap=1.0), mis(low=0.9, high=1.1)], ids=["tis", "mis"])
def test_the_entropy_bonus_is_not_weighed(correction):
    policy = Table(OLD, length=1)
    nothing_B = torch.zeros(V, dtype=torch.float64)
    settings = {"algorithm": grpo(entropy_bonus=1.0), "old": OLD, "mu": MU}
    found = found_gradient(policy, correction, nothing_B, **settings)
    log_V = policy.logits_KV[0].log_softmax(0)
    same(found, policy.gradient((log_V.exp() * log_V).sum()))


# From here on a model, and the engine that trains it.

RATIOS = (1.1, 1.6, 0.5)
"""old over mu at each token of a stale row."""


def engine_for(base, correction, **settings):
    return engines.engine_for(base, rollout={"correction": correction}, **settings)


def own_logprobs(engine, group):
    """Return the (B, T) that an update of this group alone computes first, bit by bit."""
    with torch.no_grad():
        return engine._scorer(collate([group], pad_id=0, device=CPU)).logprobs_BT


def group_of(engine, log_ratios, *, stale):
    """Three rows of three tokens, drawn by what is so far below the policy."""
    tokens, signs = [(3, 4, 1), (5, 6, 1), (7, 2, 1)], (1.0, 1.0, -1.0)
    blank = [
        TrainRow(token_ids=ids, engine_logprobs=(-1.0,) * 3, advantage=sign, is_stale=is_stale)
        for ids, sign, is_stale in zip(tokens, signs, stale, strict=True)
    ]
    own_BT = own_logprobs(engine, TrainGroup(prompt_ids=(2, 9), rows=tuple(blank)))
    drawn = (own_BT - torch.tensor(log_ratios)).tolist()
    rows = (replace(row, engine_logprobs=tuple(d)) for row, d in zip(blank, drawn, strict=True))
    return TrainGroup(prompt_ids=(2, 9), rows=tuple(rows))


def agreeing_group(engine, *, is_stale=False):
    return group_of(engine, [[0.0] * 3] * 3, stale=[is_stale] * 3)


def half_stale_group(engine):
    """A fresh row 0.25 nats off in every token, and two stale ones with `RATIOS`."""
    logs = [math.log(ratio) for ratio in RATIOS]
    return group_of(engine, [[0.25] * 3, logs, logs], stale=[False, True, True])


def gradient_of(engine, groups, monkeypatch, **changes):
    """Return the whole gradient of an update before clipping, with its facts."""
    caught = {}

    def catch(*_):
        named = engine._model.named_parameters()
        caught.update({n: p.grad.clone() for n, p in named if p.grad is not None})
        return torch.tensor(1.0)

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", catch)
    return caught, engines.update(engine, groups, lr=0.0, **changes)


@both
@pytest.mark.parametrize("epochs", [1, 2])
def test_fresh_rows_of_an_engine_that_agrees_keep_their_gradient_bit_by_bit(
    tiny_llama, monkeypatch, name, epochs
):
    def found(correction):
        engine = engine_for(copy.deepcopy(tiny_llama), correction, epochs=epochs)
        return gradient_of(engine, [agreeing_group(engine)], monkeypatch, beta=0.5)

    plain, _ = found({"name": "none"})
    corrected, facts = found({"name": name})
    assert len(plain) == 28
    assert all(torch.equal(plain[key], corrected[key]) for key in plain)
    assert facts.mismatch_max_nats == 0 and facts.effective_sample_share == 1
    assert facts.corrected_share == 0


WEIGHTS = {
    "tis": ([math.exp(0.25)] * 3, RATIOS, RATIOS),
    "mis": ([math.exp(0.75)] * 3, [0.88] * 3, [0.88] * 3),  # 1.1 * 1.6 * 0.5
    "cut tis": ([1.2] * 3, (1.1, 1.2, 0.5), (1.1, 1.2, 0.5)),
    "cut mis": ([math.exp(0.75)] * 3, [0.0] * 3, [0.0] * 3),
}
PARTS = {
    "tis": {"name": "tis"},
    "mis": {"name": "mis"},
    "cut tis": {"name": "tis", "cap": 1.2},
    "cut mis": {"name": "mis", "low": 0.9},
}
CUT = {"tis": 0, "mis": 0, "cut tis": 5 / 9, "cut mis": 6 / 9}


@pytest.mark.parametrize("epochs", [1, 2])
@pytest.mark.parametrize("part", PARTS)
def test_loss_and_penalty_of_a_token_are_multiplied_by_its_weight(
    tiny_llama, monkeypatch, part, epochs
):
    engine = engine_for(tiny_llama, PARTS[part], epochs=epochs)
    group = half_stale_group(engine)
    found, facts = gradient_of(engine, [group], monkeypatch, beta=0.5)
    batch = collate([group], pad_id=0, device=CPU)
    now_BT = engine._scorer(batch).logprobs_BT
    with torch.no_grad(), engine._model.disable_adapter():
        distance_BT = now_BT.detach() - engine._scorer(batch).logprobs_BT
    advantages_B1 = torch.tensor([[1.0], [1.0], [-1.0]])
    slopes_BT = torch.tensor(WEIGHTS[part]) * (-advantages_B1 + 0.5 * distance_BT)
    engine._model.zero_grad()
    ((slopes_BT * now_BT).sum() / 9).backward()  # 9 tokens, whatever they weigh
    for name, parameter in engine._model.named_parameters():
        if parameter.grad is not None:
            expected = parameter.grad
            assert (found[name] - expected).norm() <= 1e-5 * expected.norm(), name
    assert facts.clip_rate == 0  # Every ratio is to the update's start, where it is 1.
    assert facts.corrected_share == pytest.approx(CUT[part])


def test_the_effective_share_is_of_uncut_ratios_and_known_without_a_correction(tiny_llama):
    # Sum of w: 3 * 1.2840 + 2 * 3.2 = 10.2521; of squares: 3 * 1.6487 + 2 * 4.02 = 12.9862.
    for part in ({"name": "none"}, {"name": "tis", "cap": 1.0}):
        engine = engine_for(copy.deepcopy(tiny_llama), part)
        facts = engines.update(engine, [half_stale_group(engine)])
        assert facts.effective_sample_share == pytest.approx(0.89928, abs=1e-4)
        assert facts.mismatch_mean_nats == pytest.approx(0.25, abs=1e-5)
        # KL(mu || pi) by k3 is r - 1 - log r: .0047, .1300 and .1931.
        assert facts.stale_nats_per_token == pytest.approx(0.32784 / 3, abs=1e-4)
        assert (facts.corrected_share is None) == (part["name"] == "none")


def test_a_group_that_nothing_draws_from_measures_no_share(tiny_llama):
    facts = engines.update(engine_for(tiny_llama, {"name": "tis"}), [])
    assert math.isnan(facts.effective_sample_share) and math.isnan(facts.mismatch_mean_nats)
    assert facts.corrected_share == 0


@pytest.mark.parametrize(("name", "num_left_out"), [("none", 0), ("tis", 3)])
def test_updates_over_stale_rows_alone_can_be_stopped_under_a_correction(
    tiny_llama, name, num_left_out
):
    engine = engine_for(tiny_llama, {"name": name}, kl={"stop_at_old": 1e-6}, epochs=4)
    facts = engines.update(engine, [agreeing_group(engine, is_stale=True)], lr=1e-2)
    assert facts.num_left_out == num_left_out
    assert math.isnan(facts.old_nats_per_token) == (name == "none")


def test_the_critic_is_not_weighed(tiny_llama):
    def facts(name):
        algorithm = ppo(critic_warmup_steps=0, whiten=False)
        engine = engine_for(copy.deepcopy(tiny_llama), {"name": name}, algorithm=algorithm)
        return engines.update(engine, [half_stale_group(engine)], lr=0.0, beta=0.0)

    plain, corrected = facts("none"), facts("mis")
    assert corrected.critic == plain.critic and plain.critic.grad_norm > 0
    assert corrected.grad_norm != pytest.approx(plain.grad_norm, rel=0.05)


def test_advantages_are_whitened_as_if_nothing_were_weighed(tiny_llama):
    def advantages(name):
        engine = engine_for(copy.deepcopy(tiny_llama), {"name": name}, algorithm=ppo())
        penalty = Penalty(beta=0.5, estimator="k1", placement="reward", measures_reference=True)
        (part,) = engine._prepare([half_stale_group(engine)], penalty, np.random.default_rng(0))
        return part.micro_batches[0].start.advantages_BT

    assert torch.equal(advantages("none"), advantages("tis"))


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"engine": "transformers"}, "none"),
        ({"engine": "vllm"}, "tis"),
        ({"engine": "vllm_server"}, "tis"),
        ({"engine": "transformers", "max_staleness": 1}, "tis"),
        ({"engine": "vllm", "correction": {"name": "mis"}}, "mis"),
        ({"engine": "vllm", "max_staleness": 1, "correction": {"name": "none"}}, "none"),
    ],
)
def test_without_a_name_the_engine_and_the_staleness_choose_the_correction(settings, name):
    assert build_correction(RolloutSection(**settings)).name == name


@pytest.mark.parametrize(
    ("staleness", "has_probes", "asked", "way_out"),
    [
        (1, False, "rollout.max_staleness=1", "rollout.correction null, which weighs it,"),
        (1, True, "rollout.max_staleness=1", "rollout.correction null, which weighs it,"),
        (0, True, "curriculum.probe", "rollout.correction tis, curriculum.probe null,"),
    ],
)
def test_completions_of_older_weights_that_nothing_weighs_are_refused(
    staleness, has_probes, asked, way_out
):
    def check(algorithm, name="none", staleness=staleness, has_probes=has_probes):
        section = RolloutSection(correction={"name": name}, max_staleness=staleness)
        check_correction(section, algorithm, has_probes=has_probes)

    check(grpo())
    check(reinforce(), "tis")
    check(reinforce(), staleness=0, has_probes=False)
    with pytest.raises(ConfigError) as caught:
        check(reinforce())
    assert str(caught.value) == (
        f"{asked} with rollout.correction='none' and algorithm 'reinforce', whose loss has no "
        "ratio: what older weights drew would be taken for the policy's own; use "
        f"{way_out} {'rollout.max_staleness 0, ' if staleness else ''}or an algorithm with a ratio"
    )


def test_what_nothing_weighs_of_older_weights_bends_the_gradient_of_a_loss_without_a_ratio():
    policy = Table(PI, length=1)
    worth_B = worths(policy)
    right = on_policy(policy, worth_B)
    given = {"algorithm": reinforce(), "old": PI, "mu": MU}
    plain = found_gradient(policy, uncorrected(), worth_B, **given)
    weighed = found_gradient(policy, UNCUT["tis"], worth_B, **given)
    assert (weighed - right).norm() < 1e-12 * right.norm()
    assert (plain - right).norm() > 0.5 * right.norm()
