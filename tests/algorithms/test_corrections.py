"""Weights of tokens that another policy drew, worked by hand."""

import math
from pathlib import Path

import pytest
import torch

from rl_llm.algorithms import CORRECTIONS, masked_weights, mis, tis, truncated_weights
from rl_llm.config import NamedPart
from rl_llm.errors import ConfigError
from rl_llm.plugins import build_named

INSIDE = [[True, True], [True, True], [True, False]]


def log_ratios(old, mu):
    return torch.tensor(old, dtype=torch.float64).log() - torch.tensor(mu).double().log()


def listed(tensor):
    return [pytest.approx(row) for row in tensor.tolist()]


def test_a_token_counts_as_often_as_old_is_likelier_to_draw_it_and_at_most_cap_times():
    # 0.2 / 0.4, equal; 0.3 / 0.2, 0.5 / 0.1 = 5.
    ratios_BT = log_ratios([[0.2, 0.7], [0.3, 0.5]], [[0.4, 0.7], [0.2, 0.1]])
    inside_BT = torch.ones(2, 2, dtype=torch.bool)
    found = truncated_weights(ratios_BT, inside_BT, cap=2.0)
    assert listed(found.weights_BT) == [[0.5, 1.0], [1.5, 2.0]]
    assert found.is_cut_BT.tolist() == [[False, False], [False, True]]
    assert listed(truncated_weights(ratios_BT, inside_BT, cap=math.inf).weights_BT)[1] == [1.5, 5.0]


def test_a_response_counts_by_its_own_ratio_and_not_at_all_outside_the_bounds():
    # 2 * 1.5 = 3 is kept for both tokens, 2 * 3 = 6 is not, nor is 0.4, which is a response of one.
    ratios_BT = torch.tensor([[2.0, 1.5], [2.0, 3.0], [0.4, 50.0]], dtype=torch.float64).log()
    found = masked_weights(ratios_BT, torch.tensor(INSIDE), low=0.5, high=5.0)
    assert listed(found.weights_BT) == [[3.0, 3.0], [0.0, 0.0], [0.0, 0.0]]
    assert found.is_cut_BT[:, 0].tolist() == [False, True, True]
    kept = masked_weights(ratios_BT, torch.tensor(INSIDE), low=0.3, high=6.5)
    assert kept.weights_BT[:, 0].tolist() == pytest.approx([3.0, 6.0, 0.4])


@pytest.mark.parametrize("correction", [tis(), mis()], ids=["tis", "mis"])
def test_where_the_engine_agrees_to_the_bit_every_weight_is_exactly_1(correction):
    logprobs_BT = torch.tensor([[-0.1, -3.7], [-12.3, -0.9], [-2.0, 0.0]])
    found = correction.weigh(logprobs_BT - logprobs_BT.clone(), torch.tensor(INSIDE))
    assert torch.equal(found.weights_BT, torch.ones(3, 2)) and not found.is_cut_BT.any()


@pytest.mark.parametrize("correction", [tis(), mis()], ids=["tis", "mis"])
def test_no_gradient_flows_through_a_weight(correction):
    log_ratio_BT = torch.zeros(3, 2, requires_grad=True)
    assert not correction.weigh(log_ratio_BT, torch.tensor(INSIDE)).weights_BT.requires_grad


@pytest.mark.parametrize("broken", [math.inf, math.nan])
def test_a_ratio_that_is_not_finite_masks_its_response(broken):
    found = masked_weights(
        torch.tensor([[0.0, broken], [0.0, 0.0]]),
        torch.ones(2, 2, dtype=torch.bool),
        low=0.5,
        high=5.0,
    )
    assert found.weights_BT.tolist() == [[0.0, 0.0], [1.0, 1.0]]


def built(**part):
    return build_named(NamedPart(**part), CORRECTIONS, path="rollout.correction")


def test_none_weighs_nothing_and_names_are_those_of_the_table():
    assert built(name="none").weigh is None
    assert [built(name=name).name for name in CORRECTIONS] == ["none", "tis", "mis"]


def test_options_reach_the_weights():
    ratios_BT = torch.tensor([[3.0]]).log()
    inside_BT = torch.tensor([[True]])
    assert built(name="tis", cap=2.5).weigh(ratios_BT, inside_BT).weights_BT.item() == 2.5
    assert built(name="mis", high=2.5).weigh(ratios_BT, inside_BT).weights_BT.item() == 0.0
    assert built(name="mis").weigh(ratios_BT, inside_BT).weights_BT.item() == pytest.approx(3)


@pytest.mark.parametrize(
    ("part", "said"),
    [
        ({"name": "tis", "cap": 0.5}, "rollout.correction: cap=0.5 holds back tokens on which"),
        ({"name": "tis", "cap": math.nan}, "rollout.correction.cap=nan: must be a finite number"),
        ({"name": "mis", "low": 1.5}, "rollout.correction: low=1.5 and high=5.0 leave out"),
        ({"name": "mis", "high": 0.9}, "use a low of 0 to 1 and a high of 1 or more"),
        ({"name": "mis", "cap": 3.0}, "rollout.correction.cap=3.0: unknown option of 'mis'"),
    ],
)
def test_bounds_that_would_touch_a_ratio_of_1_are_refused(part, said):
    with pytest.raises(ConfigError) as caught:
        built(**part)
    assert said in str(caught.value)


def test_a_correction_of_ones_own_is_a_function_in_a_file(tmp_path: Path):
    (tmp_path / "mine.py").write_text(
        "from rl_llm.algorithms import Correction, TokenWeights\n"
        "def halves(*, share: float = 0.5):\n"
        "    def weigh(log_ratio_BT, mask_BT):\n"
        "        return TokenWeights(weights_BT=0 * log_ratio_BT + share, is_cut_BT=mask_BT)\n"
        "    return Correction(name='halves', weigh=weigh)\n"
    )
    found = built(name=f"{tmp_path / 'mine.py'}:halves", share=0.25)
    weights = found.weigh(torch.zeros(1, 2), torch.ones(1, 2, dtype=torch.bool))
    assert weights.weights_BT.tolist() == [[0.25, 0.25]]
