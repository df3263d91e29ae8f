"""Token log-probabilities and their gradient. Legend: N positions, D hidden size, V vocabulary."""

import math

import pytest
import torch

from rl_llm.algorithms import dense_token_logprobs, logprobs, token_logprobs


def by_autograd(hidden, weight, bias, targets, temperature):
    logits = torch.nn.functional.linear(hidden, weight, bias) / temperature
    return logits.log_softmax(-1).gather(1, targets[:, None]).squeeze(1)


def test_two_equal_logits_give_log_one_half_and_entropy_log_two():
    found = token_logprobs(
        torch.ones(1, 1), torch.ones(2, 1), None, torch.tensor([0]), temperature=1.0
    )
    assert found.logprobs_N.item() == pytest.approx(math.log(0.5))
    assert found.entropy_N.item() == pytest.approx(math.log(2))


def test_temperature_divides_logits():
    # logits 2 and 0 at temperature 2 are 1 and 0: p = e / (e + 1)
    found = token_logprobs(
        torch.tensor([[2.0]]),
        torch.tensor([[1.0], [0.0]]),
        None,
        torch.tensor([0]),
        temperature=2.0,
    )
    assert found.logprobs_N.item() == pytest.approx(math.log(math.e / (math.e + 1)), rel=1e-6)


@pytest.mark.parametrize("chunk", [7, 40, 2**23])
@pytest.mark.parametrize("with_bias", [False, True])
def test_value_and_gradient_equal_autograd_in_any_chunks(monkeypatch, chunk, with_bias):
    monkeypatch.setattr(logprobs, "MAX_LOGITS_PER_CHUNK", chunk)
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(11, 5, generator=generator, dtype=torch.float64)
    weight = torch.randn(13, 5, generator=generator, dtype=torch.float64)
    bias = torch.randn(13, generator=generator, dtype=torch.float64) if with_bias else None
    targets = torch.randint(0, 13, (11,), generator=generator)
    upstream = torch.randn(11, generator=generator, dtype=torch.float64)
    mine, theirs = hidden.clone().requires_grad_(), hidden.clone().requires_grad_()

    found = token_logprobs(mine, weight, bias, targets, temperature=0.7)
    expected = by_autograd(theirs, weight, bias, targets, 0.7)
    (found.logprobs_N.double() * upstream).sum().backward()
    (expected * upstream).sum().backward()

    torch.testing.assert_close(found.logprobs_N.double(), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-5, atol=1e-5)


def test_the_head_that_a_model_runs_itself_gives_the_same():
    hidden, weight = torch.randn(4, 3), torch.randn(6, 3)
    targets = torch.tensor([0, 5, 2, 2])
    fused = token_logprobs(hidden, weight, None, targets, temperature=1.3)
    dense = dense_token_logprobs(hidden @ weight.T, targets, temperature=1.3)
    torch.testing.assert_close(fused.logprobs_N, dense.logprobs_N)
    torch.testing.assert_close(fused.entropy_N, dense.entropy_N)


def test_a_head_that_is_trained_is_refused():
    weight = torch.zeros(2, 1, requires_grad=True)
    with pytest.raises(AssertionError, match="frozen"):
        token_logprobs(torch.ones(1, 1), weight, None, torch.tensor([0]), temperature=1.0)


def test_no_more_logits_stand_in_memory_than_a_chunk_holds(monkeypatch):
    monkeypatch.setattr(logprobs, "MAX_LOGITS_PER_CHUNK", 60)
    sizes = []
    original = torch.nn.functional.linear

    def spy(*args):
        sizes.append(original(*args).numel())
        return original(*args)

    monkeypatch.setattr(torch.nn.functional, "linear", spy)
    targets = torch.zeros(11, dtype=torch.long)
    token_logprobs(torch.randn(11, 5), torch.randn(20, 5), None, targets, temperature=1.0)
    assert sizes == [60, 60, 60, 40]


def test_memory_on_the_way_back_does_not_grow_with_the_vocabulary():
    hidden = torch.randn(64, 8, requires_grad=True)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: saved.append(tensor.numel()) or tensor, lambda tensor: tensor
    ):
        token_logprobs(
            hidden, torch.randn(5000, 8), None, torch.zeros(64, dtype=torch.long), temperature=1.0
        )
    assert sum(saved) <= 2 * hidden.numel()


def head(*, dtype=torch.float64):
    """Hidden states, weights, a bias and targets: 7 positions, 3 features, 9 tokens."""
    generator = torch.Generator().manual_seed(1)
    hidden, weight, bias = (
        torch.randn(*shape, generator=generator, dtype=dtype) for shape in ((7, 3), (9, 3), (9,))
    )
    return hidden, weight, bias, torch.randint(0, 9, (7,), generator=generator)


def test_an_entropy_has_no_gradient_unless_it_is_asked_for():
    hidden, weight, bias, targets = head()
    hidden.requires_grad_()
    fused = token_logprobs(hidden, weight, bias, targets, temperature=1.0)
    dense = dense_token_logprobs(hidden @ weight.T, targets, temperature=1.0)
    assert not fused.entropy_N.requires_grad and not dense.entropy_N.requires_grad
    assert fused.logprobs_N.requires_grad and dense.logprobs_N.requires_grad


@pytest.mark.parametrize("chunk", [9, 27, 2**23])
@pytest.mark.parametrize("with_bias", [False, True])
def test_both_gradients_pass_a_check_against_finite_differences(monkeypatch, chunk, with_bias):
    monkeypatch.setattr(logprobs, "MAX_LOGITS_PER_CHUNK", chunk)
    hidden, weight, bias, targets = head()

    def fused(hidden):
        found = token_logprobs(
            hidden,
            weight,
            bias if with_bias else None,
            targets,
            temperature=0.7,
            entropy_gradient=True,
        )
        return found.logprobs_N, found.entropy_N

    assert torch.autograd.gradcheck(fused, hidden.requires_grad_())


@pytest.mark.parametrize("wanted", ["logprobs_N", "entropy_N"])
def test_the_entropys_gradient_equals_autograds_alone_and_beside_the_logprobs(wanted):
    hidden, weight, bias, targets = head()
    upstream = torch.randn(7, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    mine, theirs = hidden.clone().requires_grad_(), hidden.clone().requires_grad_()
    options = {"temperature": 1.3, "entropy_gradient": True}
    fused = token_logprobs(mine, weight, bias, targets, **options)
    dense = dense_token_logprobs(
        torch.nn.functional.linear(theirs, weight, bias), targets, **options
    )
    torch.testing.assert_close(fused.entropy_N, dense.entropy_N)
    for found in (fused, dense):
        (getattr(found, wanted) * upstream).sum().backward(retain_graph=True)
        (found.entropy_N * upstream + 2 * found.logprobs_N).sum().backward()
    torch.testing.assert_close(mine.grad, theirs.grad)


def test_two_logits_have_the_entropy_slope_that_is_worked_by_hand():
    # logits h and 0: dH/dh = -h p (1 - p), which is -log 3 x 3/4 x 1/4 at h = log 3
    hidden = torch.tensor([[math.log(3.0)]], requires_grad=True)
    found = token_logprobs(
        hidden,
        torch.tensor([[1.0], [0.0]]),
        None,
        torch.tensor([0]),
        temperature=1.0,
        entropy_gradient=True,
    )
    found.entropy_N.sum().backward()
    assert hidden.grad.item() == pytest.approx(-math.log(3) * 3 / 16)


def test_the_entropys_gradient_changes_no_other_number():
    hidden, weight, bias, targets = head(dtype=torch.float32)
    found = []
    for wanted in (False, True):
        mine = hidden.clone().requires_grad_()
        each = token_logprobs(mine, weight, bias, targets, temperature=0.9, entropy_gradient=wanted)
        each.logprobs_N.sum().backward()
        found.append((each.logprobs_N, each.entropy_N, mine.grad))
    assert all(torch.equal(left, right) for left, right in zip(*found, strict=True))


@pytest.mark.parametrize(("wanted", "slopes"), [(False, 1), (True, 2)])
def test_a_second_slope_is_kept_only_for_the_entropys_gradient(wanted, slopes):
    hidden = torch.randn(64, 8, requires_grad=True)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: saved.append(tensor.numel()) or tensor, lambda tensor: tensor
    ):
        token_logprobs(
            hidden,
            torch.randn(500, 8),
            None,
            torch.zeros(64, dtype=torch.long),
            temperature=1.0,
            entropy_gradient=wanted,
        )
    assert saved == [hidden.numel()] * slopes


def test_numbers_of_half_precision_are_worked_out_in_float32():
    hidden, weight, _, targets = head(dtype=torch.bfloat16)
    hidden.requires_grad_()
    found = token_logprobs(hidden, weight, None, targets, temperature=1.0, entropy_gradient=True)
    assert found.logprobs_N.dtype == found.entropy_N.dtype == torch.float32
    (found.logprobs_N + found.entropy_N).sum().backward()
    assert hidden.grad.dtype == torch.bfloat16 and hidden.grad.isfinite().all()
