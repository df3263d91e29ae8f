r"""Where math_answer finds the answer, what it refuses, and what hangs or breaks math-verify."""

import subprocess
import sys
import time

import pytest

from rl_llm.config import RewardUse
from rl_llm.plugins import resolve, shipped_folder
from rl_llm.records import Completion, Group, Problem
from rl_llm.scoring import build_rubric
from rl_llm.scoring.latex import tidy_latex, words_of
from rl_llm.scoring.pool import WorkerPool
from rl_llm.scoring.rubric import bind_reward
from rl_llm.scoring.trials import collect

math_answer = resolve("math_answer", kind="rewards").target
TIMEOUT_S = 2.0


@pytest.mark.parametrize(
    ("completion", "answer"),
    [
        ("<answer>5</answer>", "5"),
        ("<answer>The answer is $5$.</answer>", "5"),
        ("<answer>It is 5.</answer>", "5"),
        ("<answer>5 apples</answer> or 6", "5"),
        (r"<answer>\boxed{5}</answer> \boxed{6}", "5"),
        (r"\boxed{6} <answer>5</answer>", "5"),
        (r"<answer> </answer> \boxed{5}", "5"),
        (r"First \boxed{4}. No, \boxed{5}. Not 6.", "5"),
        (r"\boxed{\text{The answer is } 5}", "5"),
        (r"\boxed{\(5\)}", r"\[5\]"),
        ("It is a half.\n#### \\frac12\n", "1/2"),
        ("#### Step 2\nThe answer is 5", "5"),
        ("#### 5\nI hope that it helps.", "5"),
        ("The answer is 5.", "5"),
        (r"The final answer is $(3,\infty)$. I hope it is correct.", "x>3"),
        ("Answer: $5$. Check: $2+3=5$, so 6 is wrong.", "5"),
        ("Thus $x=2$ or $x=3$.", "2,3"),
        ("She pays $5 and then $3.", "3"),
        ("It is 50%", "1/2"),
        ("The area is $12\\text{ cm}^2$.", "12"),
        ("\\[ x = \\frac{3}{4} \\]", "0.75"),
        ("word " * 1000 + "so it is 5.", "5"),
    ],
)
def test_the_answer_is_tagged_then_boxed_then_after_hashes_then_what_math_verify_finds(
    completion, answer
):
    assert math_answer(completion, answer) == 1.0


@pytest.mark.parametrize(
    "completion",
    [
        *("", " ", "I do not know.", "five", r"\boxed{}", r"\boxed{\text{unknown}}"),
        *("<answer>6</answer> 5", r"5, no: \boxed{6}", r"\boxed{5} and \boxed{6}", "5 is not 6"),
        *(r"\boxed{\frac{1}{}", "The answer is five.", "5 " + "word " * 1000, "#### Step 5 of 6"),
    ],
)
def test_no_answer_or_another_one_gives_0(completion):
    assert math_answer(completion, "5") == 0.0


@pytest.mark.parametrize(
    "answer",
    [
        *(
            r"\frac{1}{2}",
            "1/2",
            "$0.5$",
            r"\(\frac12\)",
            r"\boxed{\frac{1}{2}}",
            "<answer>.5</answer>",
        ),
        *(r"It is 1, no: \boxed{1/2}.", "1 of 2 is a half.\n#### 0.5", "The answer is $0.5$."),
    ],
)
def test_the_reference_may_be_bare_in_dollars_boxed_or_a_whole_solution(answer):
    assert math_answer(r"\boxed{\frac{2}{4}}", answer) == 1.0
    assert math_answer(r"\boxed{\frac{1}{4}}", answer) == 0.0


@pytest.mark.parametrize("answer", ["", " ", "???", r"\frac{1}{", "(1,", r"\boxed{}", "a" * 2000])
@pytest.mark.parametrize("completion", ["", r"\boxed{5}", r"\boxed{???}"])
def test_a_reference_that_cannot_be_read_is_an_error_whatever_the_completion(completion, answer):
    with pytest.raises(ValueError, match=r"^the reference answer '.*' cannot be read as math"):
        math_answer(completion, answer)


@pytest.mark.parametrize(
    ("text", "tidied"),
    [
        (r"$\left(1, 2\right)$.", "(1, 2)"),
        (r"4 1/2 \text{ cm}^2", r"4\frac{1}{2}"),
        (r"\text{ 5 kg }", "5"),
        (r"5\text{ kg} \text{ of rice}", "5"),
        (r"\text{red} \text{ car}", r"\text{red} \text{ car}"),
        (r"3 \text{ or } 4", r"3 \text{ or } 4"),
        ("7 percent", r"7\%"),
        (r"0.1\overline{6}", r"\frac{15}{90}"),
        (r"\overline{12}", r"\overline{12}"),
        ("1 000 000", "1000000"),
        ("1.5e-3", r"1.5\times 10^{-3}"),
        ("1e9999", "1e9999"),
    ],
)
def test_what_is_tidied_before_it_is_read(text, tidied):
    assert tidy_latex(text) == tidied


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("(Monday)", "monday"),
        ("no  solution", "no solution"),
        ("abc", None),
        ("June 20", "june 20"),
        ("It is 5", None),
    ],
)
def test_four_letters_are_a_word_and_three_a_product(text, words):
    assert words_of(text) == words


@pytest.mark.parametrize(
    "unit", [" ", "1 ", "1,", "(", "{", "\\text{", "\\ ", "9e", "0.", "a", "^"]
)
def test_tidying_a_long_answer_takes_no_longer_than_a_glance(unit):
    text = "1" + unit * (1000 // len(unit))
    started = time.perf_counter()
    words_of(tidy_latex(text))
    assert time.perf_counter() - started < 0.5


def group(*texts, answer="7"):
    return Group(
        problem=Problem(key="k1", prompt="3+4=", answer=answer),
        prompt_ids=(),
        completions=tuple(
            Completion(
                token_ids=(1,), logprobs=(0.0,), text=text, finish_reason="stop", policy_version=0
            )
            for text in texts
        ),
    )


@pytest.fixture(scope="module")
def pool():
    built = WorkerPool(1)
    yield built
    built.close()


# What each ends as; None where it is scored as wrong.
HOSTILE = {
    "9**9**9**9": None,
    r"\boxed{9^{9^{9^9}}}": None,
    r"\boxed{" + "9" * 1_000_000 + "}": None,
    "9" * 1_000_000: None,
    r"\boxed{" + "(" * 100_000 + "}": None,
    r"\boxed{((9!)!)!}": "timeout",
    r"\boxed{99999999!}": "timeout",
    r"\boxed{9^{99999999}}": "timeout",
    r"\boxed{" + "(" * 400 + "7" + ")" * 400 + "}": "timeout",
    r"\boxed{(x+y+z)^{300}}": "timeout",
    r"\boxed{\binom{1000000000}{500000000}}": "timeout",
}


@pytest.mark.slow
@pytest.mark.parametrize("hostile", HOSTILE, ids=lambda text: text[:30])
def test_what_hangs_math_verify_ends_within_its_limit_and_others_are_scored_as_if_alone(
    pool, hostile
):
    use = RewardUse(use="math_answer", timeout_s=TIMEOUT_S)
    reward = bind_reward(use, path="rewards.0", columns=())
    collect(pool.submit(reward, group("7")))  # The worker is there, and has loaded the reward.
    ended_s = []
    started = time.monotonic()
    futures = pool.submit(reward, group(hostile, r"\boxed{7}", r"\boxed{8}", "It is 7."))
    futures[0].add_done_callback(lambda _: ended_s.append(time.monotonic() - started))
    outcome, *others = collect(futures)
    assert others == [1.0, 0.0, 1.0]
    assert ended_s[0] < TIMEOUT_S + 1.0
    if HOSTILE[hostile] is None:
        assert outcome == 0.0
    else:
        assert outcome.kind == HOSTILE[hostile]


@pytest.mark.slow
def test_a_bad_reference_masks_its_own_problem_and_is_named(caplog):
    rubric = build_rubric([RewardUse(use="math_answer")], columns=(), num_workers=1)
    bad, good = rubric.score([group("7", "8", answer="???"), group("7", "8")])
    rubric.close()
    assert [score.correct for score in good.scores] == [True, False]
    assert [score.failures for score in bad.scores] == [{"math_answer": "raised"}] * 2
    assert "failed on problem k1: ValueError: the reference answer '???' cannot" in caplog.text


def test_without_math_verify_the_reward_names_the_extra(tmp_path):
    code = (
        "import sys; sys.modules['math_verify'] = None\n"
        "from rl_llm.plugins import resolve\n"
        "resolve('math_answer', kind='rewards')"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    file = shipped_folder("rewards") / "math_answer.py"
    line = done.stderr.splitlines()[-1]
    assert line.startswith(f"rl_llm.errors.PluginError: {file} cannot be loaded: line ")
    assert line.endswith(
        ": ImportError: the reward math_answer needs the package math-verify; run: pip install -e "
        "'.[math]'"
    )


@pytest.mark.parametrize(
    ("completion", "answer", "expected"),
    [
        (r"<think>\boxed{3}?</think>It is $\frac12$.", "0.5", 1.0),
        (r"<think>\boxed{3}?</think>It is $\frac12$.", "3", 0.0),
        (r"<think>It is $3$.</think>", "3", 0.0),
        (r"\boxed{4}, no</think>so \boxed{3}", "3", 1.0),
    ],
)
def test_what_stands_before_the_end_of_thoughts_does_not_count(completion, answer, expected):
    assert math_answer(completion, answer) == expected
