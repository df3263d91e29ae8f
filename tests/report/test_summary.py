import json

from rl_llm.report import summary
from rl_llm.report.read import read_run


def with_samples(folder, *rows):
    (folder / "completions").mkdir(exist_ok=True)
    file = folder / "completions" / "step-000000.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read_run(folder)


def test_wall_time_is_steps_and_evaluations_and_checkpoints(make_run):
    rows = [
        {"step": 0, "time/eval_s": 3.0},
        {"step": 1, "step_s": 5.0, "time/generate_s": 2.0, "time/update_s": 1.0},
        {"step": 2, "step_s": 4.0, "time/eval_s": 3.0, "time/checkpoint_s": 0.5},
    ]
    assert summary.wall_seconds(read_run(make_run(rows))) == 3.0 + 5.0 + 4.0 + 3.0 + 0.5


def test_a_run_without_times_has_no_wall_time(make_run):
    assert summary.wall_seconds(read_run(make_run([{"step": 0}]))) is None


def test_the_headline_compares_the_first_and_the_last_evaluation(make_run):
    rows = [
        {"step": 0, "eval/pass_rate": 0.2, "eval/pass_rate_se": 0.01},
        {"step": 1, "eval/pass_rate": 0.9},
        {"step": 2, "eval/pass_rate": 0.6},
    ]
    first, last = summary.held_out(read_run(make_run(rows)))
    assert (first.step, first.mean, first.error) == (0, 0.2, 0.01)
    assert (last.step, last.mean, last.error) == (2, 0.6, None)


def test_pairs_join_by_key_and_let_levels_take_turns(make_run, make_sample):
    def row(step, key, level, correct):
        return {**make_sample(step, 1, 0), "key": key, "level": level, "correct": correct}

    run = with_samples(
        make_run([{"step": 0}]),
        *(row(0, "b", 1, False), row(0, "a", 1, True), row(0, "c", 2, False), row(0, "x", 2, True)),
        row(4, "a", 1, False),
        *(row(8, "a", 1, False), row(8, "b", 1, True), row(8, "c", 2, False), row(8, "y", 2, True)),
    )
    pairs = summary.pairs(run)
    assert [pair.before.key for pair in pairs] == ["a", "c", "b"]
    assert {pair.after.step for pair in pairs} == {8}
    assert summary.outcomes(pairs) == summary.Outcomes(learnt=1, kept=0, lost=1, open=1)


def test_a_pair_with_a_reward_that_failed_is_neither_right_nor_wrong(make_run, make_sample):
    rows = [
        {**make_sample(step, 1, 0), "key": key, "correct": False, "error": error}
        for step, key, error in (
            (0, "a", "boom"),
            (0, "b", None),
            (0, "c", None),
            (8, "a", None),
            (8, "b", "boom"),
            (8, "c", None),
        )
    ]
    pairs = summary.pairs(with_samples(make_run([{"step": 0}]), *rows))
    expected = summary.Outcomes(learnt=0, kept=0, lost=0, open=1, failed=2)
    assert summary.outcomes(pairs) == expected


def test_of_a_large_group_the_two_best_and_the_two_worst_are_shown(make_run, make_sample):
    totals = [0.1, 0.5, 1.1, 0.3, 0.9, 0.2]
    rows = [{**make_sample(4, 5, 0, split="train"), "total": total} for total in totals]
    (group,) = summary.last_training_groups(with_samples(make_run([{"step": 4}]), *rows))
    assert [sample.total for sample in group.shown] == [1.1, 0.9, 0.2, 0.1]


def test_training_groups_are_those_of_the_newest_step(make_run, make_sample):
    rows = [make_sample(step, 5, 0, split="train") for step in (4, 8)]
    (group,) = summary.last_training_groups(with_samples(make_run([{"step": 8}]), *rows))
    assert group.problem.step == 8
