"""What the verifier takes as the answer, and what it does not run."""

import pytest

from rl_llm.plugins import resolve

PLUGIN = resolve("reasoning_gym_verifier", kind="rewards")
INTEGRAL = {
    "family": "simple_integration",
    "config": {},
    "entry": {"answer": "x**2 + C", "metadata": {"variable": "x", "integrand": "2*x"}},
}


@pytest.mark.parametrize(
    ("completion", "answer"),
    [
        (r"<answer> 12 </answer> \boxed{13} #### 14", "12"),
        (r"It is \boxed{13}.", "13"),
        ("#### 14\nbye", "14"),
        (" 15 \n", "15"),
        ("<answer></answer> 16", ""),
    ],
)
def test_the_answer_is_tagged_then_boxed_then_after_hashes_then_everything(completion, answer):
    assert PLUGIN.module.read_answer(completion) == answer


@pytest.mark.parametrize("answer", ["x**2 + C", "x*x", "(x + 1)**2 - 2*x", "x**2 + sin(1)"])
def test_an_equal_antiderivative_solves_an_integral(answer):
    assert PLUGIN.target(f"<answer>{answer}</answer>", **INTEGRAL) == 1.0


@pytest.mark.parametrize(
    "answer",
    [
        "open('{path}', 'w') and x**2",
        "(open)('{path}', 'w')",
        "__import__('os').system('touch {path}')",
        "[sin('{path}', 'w') for sin in [open]]",
        "x**2 if open\t('{path}', 'w') else x",
        "Integral(2*x, x)",
    ],
)
def test_an_answer_that_would_run_code_or_repeat_the_question_gives_0(answer, tmp_path):
    path = tmp_path / "made"
    assert PLUGIN.target(f"<answer>{answer.format(path=path)}</answer>", **INTEGRAL) == 0.0
    assert not path.exists()


def test_an_answer_that_breaks_the_verifier_gives_0():
    entry = {"answer": "2 \u00d7 3", "metadata": {"number": 6, "factors": [2, 3]}}
    given = {"family": "prime_factorization", "config": {}, "entry": entry}
    assert PLUGIN.target("<answer>2 \u00d7 3</answer>", **given) == 1.0
    assert PLUGIN.target("<answer>two</answer>", **given) == 0.0
