"""What a person sees of a run in a terminal."""

import io

import pytest
from rich.console import Console

from rl_llm.cli import progress
from rl_llm.cli.progress import ConsoleWatcher, pass_rate_table, tally
from rl_llm.pass_rates import PassRate
from rl_llm.records import Score, ScoredGroup
from rl_llm.trainer import Evaluation

WRONG = Score(total=0.0, parts={}, correct=False)

ROW = {
    "step": 3,
    "step_s": 2.0,
    "train/pass_rate": 0.61,
    "train/informative_share": 0.44,
    "train/completions_masked": 0,
    "kl/beta": 0.0123,
    "kl/ref_nats_per_token": 0.0456,
    "kl/old_nats_per_token": 0.0,
    "kl/updates_left_out": 0,
    "optim/lr": 1e-3,
    "time/score_s": 0.2,
    "rollout/tokens_per_s": 15432.0,
}


def shown(*, terminal, row=ROW):
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=150)
    with ConsoleWatcher(console, total_steps=8, first_step=2) as watcher:
        watcher.stepped(row)
    return out.getvalue()


def test_a_terminal_shows_a_bar_with_the_figures_of_the_step_and_the_time_left():
    printed = shown(terminal=True)
    for part in ("3/8", "pass 0.61", "informative 0.44", "beta 0.0123", "KL 0.0456", "15,432"):
        assert part in printed
    assert "-:--:--" in printed or "0:00:" in printed


def test_elsewhere_a_step_is_one_plain_line():
    assert shown(terminal=False) == (
        "step 3/8  pass 0.61  informative 0.44  beta 0.0123  KL 0.0456  15,432 tokens/s  2.0 s\n"
    )


def test_further_updates_and_a_critic_add_their_figures():
    row = ROW | {"kl/old_nats_per_token": 0.0012, "critic/explained_variance": -0.314}
    assert shown(terminal=False, row=row) == (
        "step 3/8  pass 0.61  informative 0.44  beta 0.0123  KL 0.0456  KL to old 0.0012  "
        "explained variance -0.31  15,432 tokens/s  2.0 s\n"
    )


def test_completions_that_could_not_be_scored_are_counted_beside_the_step():
    assert "  KL 0.0456  not scored 14  15,432" in shown(
        terminal=False, row=ROW | {"train/completions_masked": 14}
    )


@pytest.mark.parametrize(
    ("step_s", "score_s", "is_told"),
    [(31.8, 29.1, True), (60.0, 29.1, False), (5.0, 4.9, False), (10.2, 5.1, False)],
)
def test_a_step_that_waits_for_its_rewards_more_than_for_the_rest_says_so(step_s, score_s, is_told):
    row = ROW | {"train/completions_masked": 80, "step_s": step_s, "time/score_s": score_s}
    line = shown(terminal=False, row=row)
    assert (f"  not scored 80  scoring {score_s} s  15,432 tokens/s" in line) == is_told
    assert ("scoring" in line) == is_told


def test_an_evaluation_says_how_many_completions_could_not_be_scored():
    out = io.StringIO()
    watcher = ConsoleWatcher(Console(file=out, width=150), total_steps=8, first_step=0)
    scores = (Score(total=0.0, parts={}, correct=False, error="boom"), WRONG, WRONG)
    group = ScoredGroup(group=None, scores=scores)
    rate = PassRate(mean=0.0, standard_error=0.0, num_problems=2)
    watcher.evaluated(
        4,
        Evaluation(
            overall=rate,
            by_level={},
            completion_tokens_mean=1.0,
            truncated_share=0.0,
            num_masked=2,
            elapsed_s=1.0,
            scored=(group, group),
        ),
    )
    assert out.getvalue() == (
        "held-out pass rate after step 4: 0.000 +- 0.000 (2 problems, 1.0 s)\n"
        "2 of 6 completions could not be scored (a reward failed or gave no number); they count as "
        "wrong\n"
    )


@pytest.mark.parametrize(("num_masked", "says"), [(0, False), (14, True)])
def test_the_table_has_a_row_for_what_could_not_be_scored_if_there_is_any(num_masked, says):
    before = {
        "step": 0,
        "eval/pass_rate": 0.4,
        "eval/pass_rate_se": 0.1,
        "eval/completions": 24,
        "eval/completions_masked": 0,
    }
    out = io.StringIO()
    after = before | {"step": 8, "eval/completions_masked": num_masked}
    Console(file=out, width=100).print(pass_rate_table(before, after))
    assert ("14 of 24" in out.getvalue()) == ("not scored" in out.getvalue()) == says


def test_updates_that_were_left_out_and_a_critic_that_learns_alone_are_said():
    row = ROW | {"kl/updates_left_out": 2, "optim/lr": 0.0, "critic/explained_variance": 0.25}
    assert shown(terminal=False, row=row) == (
        "step 3/8  pass 0.61  informative 0.44  beta 0.0123  KL 0.0456  updates left out 2  "
        "critic alone  explained variance 0.25  15,432 tokens/s  2.0 s\n"
    )


def test_what_nothing_measured_is_left_out_and_a_share_of_nothing_is_a_dash():
    nan = float("nan")
    row = ROW | {"train/pass_rate": nan, "kl/ref_nats_per_token": nan, "kl/old_nats_per_token": nan}
    assert shown(terminal=False, row=row) == (
        "step 3/8  pass -  informative 0.44  beta 0.0123  15,432 tokens/s  2.0 s\n"
    )


def test_of_each_group_the_best_and_the_worst_completion_are_shown():
    out = io.StringIO()
    watcher = ConsoleWatcher(Console(file=out, width=150), total_steps=8, first_step=0)
    rows = [
        {"split": "train", "step": 3, "key": "k", "prompt": "4+9=", "text": text, "total": total}
        for text, total in (("middling", 0.5), ("good", 1.0), ("bad", 0.0))
    ]
    watcher.sampled([row | {"advantage": row["total"] - 0.5} for row in rows])
    printed = out.getvalue()
    assert "good" in printed and "bad" in printed and "middling" not in printed
    assert "+0.50" in printed and "-0.50" in printed


def test_with_a_critic_the_table_has_no_advantages():
    out = io.StringIO()
    row = {"split": "train", "step": 3, "key": "k", "prompt": "4+9=", "text": "good", "total": 1.0}
    ConsoleWatcher(Console(file=out, width=150), total_steps=8, first_step=0).sampled(
        [row | {"advantage": None}]
    )
    printed = out.getvalue()
    assert "reward" in printed and "1.00" in printed and "advantage" not in printed


def test_the_table_goes_without_the_number_of_completions_where_rows_have_none():
    row = {"step": 0, "eval/pass_rate": 0.4, "eval/pass_rate_se": 0.1, "eval/completions_masked": 3}
    out = io.StringIO()
    Console(file=out, width=100).print(pass_rate_table(row, {**row, "step": 8}))
    assert "not scored" in out.getvalue()


def counted(*, terminal):
    out = io.StringIO()
    with tally(Console(file=out, force_terminal=terminal, width=150), total=1_200) as add:
        add(1_000)
        add(2)
    return out.getvalue()


def test_an_evaluation_under_way_is_a_bar_in_a_terminal():
    assert "1002/1200" in counted(terminal=True)


@pytest.mark.parametrize(
    ("seconds", "lines"),
    [(0.0, ["1,000 of 1,200 problems", "1,002 of 1,200 problems"]), (60.0, [])],
)
def test_elsewhere_it_is_a_line_now_and_then(seconds, lines, monkeypatch):
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", seconds)
    assert counted(terminal=False).splitlines() == lines


@pytest.mark.parametrize("level", ["[easy]", "[/b]"])
def test_a_level_in_brackets_is_shown_as_it_is_written(level):
    row = {
        "step": 0,
        "eval/pass_rate": 0.5,
        "eval/pass_rate_se": 0.1,
        "eval/completions_masked": 0,
        f"eval/pass_rate/level={level}": 0.25,
    }
    out = io.StringIO()
    Console(file=out, width=100).print(pass_rate_table(row, {**row, "step": 8}))
    assert f"│ {level} " in out.getvalue()
