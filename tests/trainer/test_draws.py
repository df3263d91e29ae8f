"""The log of what was drawn, and why."""

import json

from rl_llm.curriculum.draw_record import Draw
from rl_llm.records import Completion, Group, Problem, Score, ScoredGroup, content_key
from rl_llm.trainer.draws import LoggedDraw, draw_rows, read_draws
from rl_llm.trainer.generation import Harvest
from rl_llm.trainer.metrics import JsonlSink

RIGHT = Score(total=1.0, parts={}, correct=True)
WRONG = Score(total=0.0, parts={}, correct=False)
FAILED = Score(total=0.0, parts={}, correct=False, error="boom")
P, Q = content_key("p", "a"), content_key("q", "a")


def scored_group(prompt, *scores):
    completion = Completion(
        token_ids=(1,), logprobs=(-1.0,), text="", finish_reason="stop", policy_version=0
    )
    problem = Problem(
        key=content_key(prompt, "a"), prompt=prompt, answer="a", level=3, source="sums"
    )
    group = Group(problem=problem, prompt_ids=(2,), completions=(completion,) * len(scores))
    return ScoredGroup(group=group, scores=scores)


def drawn(key, *, why="sampler", round=0, a=1.5, b=1.5):
    return Draw(key=key, belief_a=a, belief_b=b, informative=0.5, why=why, round=round)


def harvest(scored, draws, *, admitted=()):
    return Harvest(
        scored=tuple(scored),
        draws=tuple(draws),
        admitted=tuple(admitted),
        dropped=(),
        num_rounds=1,
        generate_s=1.0,
        score_s=0.0,
    )


def log(path, rows, *, last_step=-1):
    sink = JsonlSink(path, last_step=last_step)
    for row in rows:
        sink.write(row)
    sink.close()


def test_a_row_says_what_was_believed_what_came_of_it_and_whether_it_was_learnt_from():
    mixed, failing = scored_group("p", RIGHT, WRONG, WRONG), scored_group("q", RIGHT, FAILED)
    draws = [drawn(P), drawn(Q, why="review", round=1, a=2.123456, b=0.5)]
    rows = draw_rows(harvest([mixed, failing], draws, admitted=[mixed]), step=7)
    assert rows == [
        {
            "step": 7,
            "round": 0,
            "key": P,
            "source": "sums",
            "level": 3,
            "correct": 1,
            "counted": 3,
            "belief": [1.5, 1.5],
            "informative": 0.5,
            "admitted": True,
            "why": "sampler",
        },
        {
            "step": 7,
            "round": 1,
            "key": Q,
            "source": "sums",
            "level": 3,
            "correct": 1,
            "counted": 1,
            "belief": [2.1235, 0.5],
            "informative": 0.5,
            "admitted": False,
            "why": "review",
        },
    ]


def test_a_probe_and_what_finishes_it_are_two_rows_and_both_say_that_it_was_learnt_from():
    probe, finish = scored_group("p", RIGHT, WRONG), scored_group("p", WRONG)
    whole = scored_group("p", RIGHT, WRONG, WRONG)
    draws = [drawn(P, why="probe"), drawn(P, why="finish", round=1)]
    rows = draw_rows(harvest([probe, finish], draws, admitted=[whole]), step=1)
    assert [(r["why"], r["round"], r["correct"], r["counted"], r["admitted"]) for r in rows] == [
        ("probe", 0, 1, 2, True),
        ("finish", 1, 0, 1, True),
    ]


def test_the_log_gives_back_the_draws_of_one_problem_in_their_order(tmp_path):
    path = tmp_path / "draws.jsonl"
    first, other, second = (scored_group(p, RIGHT, WRONG) for p in "pqp")
    rows = draw_rows(harvest([first, other], [drawn(P), drawn(Q)], admitted=[first]), step=1)
    rows += draw_rows(harvest([second], [drawn(P, why="spare", a=4.0)]), step=2)
    log(path, rows)
    assert list(read_draws(path, prefix=P[:5])) == [
        LoggedDraw(
            step=step,
            round=0,
            key=P,
            source="sums",
            level=3,
            num_correct=1,
            num_counted=2,
            belief_a=a,
            belief_b=1.5,
            informative=0.5,
            admitted=step == 1,
            why=why,
        )
        for step, a, why in ((1, 1.5, "sampler"), (2, 4.0, "spare"))
    ]
    assert [draw.key for draw in read_draws(path)] == [P, Q, P]


def test_lines_past_the_checkpoint_are_cut_where_a_step_has_several(tmp_path):
    path = tmp_path / "draws.jsonl"
    groups = [scored_group("p", RIGHT), scored_group("q", WRONG)]
    both = harvest(groups, [drawn(P), drawn(Q)])
    log(path, [row for step in (1, 2, 3) for row in draw_rows(both, step=step)])
    with path.open("a", encoding="utf-8") as file:
        file.write('{"step": 4, "key": "ab')
    log(path, draw_rows(harvest(groups[:1], [drawn(P)]), step=3), last_step=2)
    assert [(d.step, d.key) for d in read_draws(path)] == [(1, P), (1, Q), (2, P), (2, Q), (3, P)]


def test_a_run_without_a_log_has_no_draws(tmp_path):
    assert list(read_draws(tmp_path / "draws.jsonl")) == []


def test_a_line_is_lean():
    group = scored_group("p", *[RIGHT, WRONG] * 4)
    draws = [drawn(P, a=12.34567, b=3.14159)]
    (row,) = draw_rows(harvest([group], draws, admitted=[group]), step=123)
    assert len(json.dumps(row)) < 220
