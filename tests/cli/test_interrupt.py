"""Which signals end a run at once, and which are only noted; each is a real one."""

import signal

import pytest

from rl_llm.cli import interrupt as module
from rl_llm.cli.interrupt import Interrupt
from rl_llm.cli.main import _sigterm_unwinds
from rl_llm.config import RewardUse
from rl_llm.errors import Stopped
from rl_llm.records import Completion, Group, Problem
from rl_llm.scoring import build_rubric


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    for name in ("TORCHELASTIC_RUN_ID", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)


def ends_with(number):
    """Send this process a signal; return the exit code that it ends with, None if it goes on."""
    try:
        signal.raise_signal(number)
    except SystemExit as ending:
        return ending.code
    return None


def lose_in_a_finalizer(number):
    """Send this process a signal where what the handler raises is dropped."""

    class Finalized:
        def __del__(self):
            signal.raise_signal(number)

    Finalized()


def test_before_there_is_anything_to_finish_the_first_signal_ends_the_run(capfd):
    with pytest.raises(Stopped), Interrupt():
        assert ends_with(signal.SIGINT) == 130
    with pytest.raises(Stopped), Interrupt() as interrupt:
        interrupt.stop_at_once("step-000004 stays")
        assert ends_with(signal.SIGTERM) == 143
    assert capfd.readouterr().err == (
        "SIGINT: stopping at once; no step is done yet, so there is nothing to save\n"
        "SIGTERM: stopping at once; step-000004 stays\n"
    )


def test_the_first_signal_is_noted_and_the_second_ends_the_run_with_its_own_code(capfd):
    with pytest.raises(Stopped) as left, Interrupt() as interrupt:
        interrupt.finish_first("finishing", at_once="lost")
        assert interrupt.received == 0
        assert ends_with(signal.SIGTERM) is None
        assert interrupt.is_requested()
        assert ends_with(signal.SIGINT) == 130
        assert interrupt.received == signal.SIGTERM
    assert left.value.code == 130
    assert capfd.readouterr().err == (
        "SIGTERM: finishing; once more to stop at once\nSIGINT: stopping at once; lost\n"
    )


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    "go_on",
    [
        lambda interrupt: interrupt.is_requested(),
        lambda interrupt: interrupt.finish_first("finishing", at_once="lost"),
        lambda interrupt: interrupt.stop_at_once("step-000004 stays"),
    ],
)
def test_an_end_that_a_finalizer_has_lost_is_raised_by_the_next_call(go_on):
    with pytest.raises(Stopped), Interrupt() as interrupt:
        lose_in_a_finalizer(signal.SIGTERM)
        with pytest.raises(Stopped) as left:
            go_on(interrupt)
        assert left.value.code == 143


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_end_that_was_lost_is_raised_on_leaving_also_in_place_of_another_error():
    with pytest.raises(Stopped), Interrupt():
        lose_in_a_finalizer(signal.SIGTERM)
    with pytest.raises(Stopped) as left, Interrupt():
        lose_in_a_finalizer(signal.SIGINT)
        raise ValueError("C code has made this of the end")
    assert left.value.code == 130


def test_an_exit_code_of_its_own_is_kept_on_leaving():
    with pytest.raises(SystemExit) as left, Interrupt():
        assert ends_with(signal.SIGTERM) == 143
        raise SystemExit(7)
    assert left.value.code == 7


def test_under_a_launcher_signals_close_together_are_one(monkeypatch, capfd):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    with pytest.raises(Stopped), Interrupt() as interrupt:
        interrupt.finish_first("finishing", at_once="lost")
        assert [ends_with(signal.SIGINT) for _ in range(3)] == [None] * 3
        monkeypatch.setattr(module.time, "monotonic", lambda: float("inf"))
        assert ends_with(signal.SIGINT) == 130
    assert capfd.readouterr().err.count("finishing") == 1


def test_the_first_process_of_a_machine_alone_speaks(monkeypatch, capfd):
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(Stopped), Interrupt() as interrupt:
        interrupt.finish_first("finishing", at_once="lost")
        assert [ends_with(signal.SIGTERM) for _ in range(2)] == [None, 143]
    assert capfd.readouterr().err == ""


def test_a_signal_that_follows_the_end_of_another_process_ends_this_one_in_silence(capfd):
    with pytest.raises(Stopped), Interrupt() as interrupt:
        interrupt.finish_first("finishing", at_once="lost")
        interrupt.end_with_others(lambda: True)
        assert ends_with(signal.SIGTERM) == 143
    assert capfd.readouterr().err == ""


def test_at_the_end_both_signals_are_as_they_were():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with Interrupt():
        assert signal.getsignal(signal.SIGTERM) not in before
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


@pytest.fixture
def score_signalled(tmp_path):
    """Score two completions with a reward that gets a SIGTERM, and then exits by itself."""
    file = tmp_path / "slow.py"
    file.write_text(
        "import signal, sys\n\n"
        "def slow(completion):\n"
        "    signal.raise_signal(signal.SIGTERM)\n"
        "    sys.exit('by itself')\n"
    )
    answer = Completion(
        token_ids=(1,), logprobs=(0.0,), text="", finish_reason="stop", policy_version=0
    )
    problem = Problem(key="k", prompt="", answer="")
    group = Group(problem=problem, prompt_ids=(1,), completions=(answer, answer))
    rubric = build_rubric([RewardUse(use=f"{file}:slow", inline=True)], columns=set())
    return lambda: list(rubric.score([group]))


def test_a_signal_ends_what_is_scored_at_once_and_is_no_failure_of_a_reward(score_signalled):
    with _sigterm_unwinds(), pytest.raises(Stopped) as left:
        score_signalled()
    assert left.value.code == 143


def test_a_second_signal_ends_a_run_that_is_in_a_reward(score_signalled):
    with pytest.raises(Stopped), Interrupt() as interrupt:
        interrupt.finish_first("finishing", at_once="lost")
        with pytest.raises(Stopped):
            score_signalled()
        assert interrupt.received == signal.SIGTERM
