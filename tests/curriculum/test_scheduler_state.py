"""The same decisions on every rank and after a resume, with everything on."""

import json
from collections import Counter
from itertools import product

import numpy as np
import pytest

from rl_llm.curriculum import SAMPLERS, store

NUM_WANTED = 6

# Everything on, and quick enough to act within a dozen steps.
EVERYTHING = {
    "quotas": {"hard": 0.25},
    "retire": {"pass_rate": 0.6, "certainty": 0.7, "review_share": 0.2},
    "defer": {"after": 1, "first_steps": 2, "most_steps": 8},
    "prerequisites": {"easy": "in_order", "hard": {2: [1]}},
    "belief": {"max_gain": 2.0, "coupling": 5.0},
}
PROBE = {"completions": 2, "problems": 12}
REFILL = {"max_rounds": 3}

# Pass rates by source and level; what is in between is learnt from, and rises with the steps.
RATES = {
    ("easy", 1): 1.0,
    ("easy", 2): 0.5,
    ("hard", 1): 0.6,
    ("hard", 2): 0.02,
    ("flow", 1): 0.4,
    ("flow", 2): 0.1,
}

# Level 1 of `flow` is open to all; the finite sources stand around the stream.
ALL_MODES = list(product(SAMPLERS, ("whole", "probe"), ("finite", "mixed")))


def rate(problem, step):
    start = RATES[problem.source, problem.level]
    return start if start in (0.0, 1.0) else min(0.98, start + 0.01 * step)


@pytest.fixture
def world(stage):
    return stage.World(rate)


@pytest.fixture
def build(make_scheduler, stage):
    """Return `(sampler, phases, pool) -> scheduler`; called again, the same over again."""

    def make(sampler, phases, pool, **changes):
        easy, hard = (
            [
                stage.make_problem(f"{name}{k}", level=level, source=name, difficulty=k % 3)
                for level in (1, 2)
                for k in range(10 * level, 10 * level + 10)
            ]
            for name in ("easy", "hard")
        )
        stream = stage.ScriptedStream("flow", levels=(1, 2), size=4)
        streams = (stream,) if pool == "mixed" else ()
        problems = [*easy, *(stream.batch(0) if streams else ()), *hard]
        more = {"probe": PROBE} if phases == "probe" else {"refill": REFILL}
        settings = EVERYTHING | more | changes
        return make_scheduler(
            problems, streams=streams, sampler=sampler, num_problems=NUM_WANTED, **settings
        )

    return make


def everything(scheduler, played, step):
    """Return all that may be seen of a step."""
    concluded = [
        [g.group.problem.key for g in ended] for ended in (played.admitted, played.dropped)
    ]
    return played.rounds, played.draws, concluded, scheduler.metrics(step)


def assert_equal_states(first, second):
    assert first["rest"] == second["rest"]
    assert first["columns"].keys() == second["columns"].keys()
    for name, column in first["columns"].items():
        assert column.dtype == second["columns"][name].dtype, name
        assert np.array_equal(column, second["columns"][name]), name


def through_disk(scheduler, fresh, tmp_path):
    """Take a scheduler through a checkpoint on disk."""
    path = tmp_path / "curriculum.parquet"
    rest = store.save(path, scheduler.row_names, scheduler.state_dict())
    fresh.load_state_dict(store.load(path, fresh.row_names, json.loads(json.dumps(rest))))
    return fresh


@pytest.mark.parametrize(("sampler", "phases", "pool"), ALL_MODES)
def test_ranks_that_hear_the_same_groups_ask_for_the_same(
    build, stage, world, sampler, phases, pool
):
    first, second = build(sampler, phases, pool), build(sampler, phases, pool)
    for step in range(1, 21):
        stage.play_step(first, world, step, num_wanted=NUM_WANTED, followers=[second])
        assert first.metrics(step) == second.metrics(step)
    assert_equal_states(first.state_dict(), second.state_dict())


@pytest.mark.parametrize(("sampler", "phases", "pool"), ALL_MODES)
def test_a_resumed_run_asks_draws_keeps_and_measures_the_same(
    build, stage, world, tmp_path, sampler, phases, pool
):
    whole = build(sampler, phases, pool)
    for step in range(1, 13):
        stage.play_step(whole, world, step, num_wanted=NUM_WANTED)
    resumed = through_disk(whole, build(sampler, phases, pool), tmp_path)
    assert_equal_states(whole.state_dict(), resumed.state_dict())
    assert list(whole.problems) == list(resumed.problems)
    for step in range(13, 24):
        seen = [
            everything(each, stage.play_step(each, world, step, num_wanted=NUM_WANTED), step)
            for each in (whole, resumed)
        ]
        assert seen[0] == seen[1]
    assert_equal_states(whole.state_dict(), resumed.state_dict())


@pytest.mark.parametrize(("phases", "pool"), list(product(("whole", "probe"), ("finite", "mixed"))))
def test_everything_acts_within_these_runs(build, stage, world, phases, pool):
    """Else the two tests above would say little."""
    scheduler, whys, most = build("posterior", phases, pool), Counter(), Counter()
    assert scheduler.metrics(0)["curriculum/locked_buckets"] == 2.0
    for step in range(1, 24):
        played = stage.play_step(scheduler, world, step, num_wanted=NUM_WANTED)
        whys.update(draw.why for draw in played.draws)
        metrics = scheduler.metrics(step)
        for name in ("retired_count", "deferred_count", "probes_waiting"):
            most[name] = max(most[name], metrics.get(f"curriculum/{name}", 0.0))
        most["rounds"] = max(most["rounds"], len(played.rounds))
    assert whys["review"] and most["retired_count"] and most["deferred_count"]
    assert metrics["curriculum/locked_buckets"] == 0.0
    assert most["rounds"] > 1
    assert bool(most["probes_waiting"]) == (phases == "probe")


def standings(scheduler, step):
    """Return, by key, whether a problem is retired, deferred or active, and whether it is open."""
    told = {p.key: dict(scheduler.explain(p.key, step=step)) for p in scheduler.problems}
    return {
        key: (said["standing"].split(maxsplit=1)[0].strip(":"), said["its level"][:4])
        for key, said in told.items()
    }


def opened(scheduler, key):
    """Return the step that opened the level of a problem."""
    said = dict(scheduler.explain(key, step=1))["its level"]
    return int(said.removeprefix("open since step "))


@pytest.mark.parametrize(("sampler", "phases", "pool"), ALL_MODES)
def test_only_reviews_and_spares_wake_what_rests_and_nothing_opens_what_is_locked(
    build, stage, world, sampler, phases, pool
):
    scheduler, waiting = build(sampler, phases, pool), set()
    for step in range(1, 31):
        before = standings(scheduler, step)
        played = stage.play_step(scheduler, world, step, num_wanted=NUM_WANTED)
        allowed = {
            "sampler": ("active",),
            "probe": ("active",),
            "review": ("retired",),
            "spare": ("retired", "deferred"),
            "finish": ("active", "retired", "deferred"),
        }
        for draw in played.draws:
            standing, is_open = before[draw.key]
            assert standing in allowed[draw.why]
            assert is_open == "open" or (draw.round and opened(scheduler, draw.key) == step)
        if any(draw.why == "spare" for draw in played.draws):
            free = {key for key, told in before.items() if told == ("active", "open")}
            assert free <= set(played.keys) | waiting
        ended = {group.group.problem.key for group in [*played.admitted, *played.dropped]}
        waiting = (waiting | set(played.keys)) - ended


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_step_is_full_while_any_open_problem_is_left(make_scheduler, stage, sampler):
    """Of 12 problems 6 are locked for ever; the others wait after every group."""
    problems = [stage.make_problem(f"q{k}", level=1 + k % 2) for k in range(12)]
    scheduler = make_scheduler(
        problems,
        sampler=sampler,
        num_problems=5,
        defer={"after": 1, "first_steps": 50, "most_steps": 50},
        prerequisites={"s": "in_order"},
    )
    for step in range(1, 20):
        played = stage.play_step(scheduler, stage.World(lambda *_: 0.0), step, num_wanted=5)
        assert len(played.keys) == 5
        assert {group.group.problem.level for group in played.scored} == {1}
    assert scheduler.metrics(19)["curriculum/deferred_count"] == 6.0


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_quotas_hold_over_many_steps_with_reviews_and_waits(make_scheduler, stage, sampler):
    """The source `few` is promised a quarter of 8 and has 2 problems; `others` have no quota."""
    rates = {"easy": 1.0, "hard": 0.0, "few": 0.5, "others": 0.5}
    problems = [
        stage.make_problem(f"{source}{k}", source=source)
        for source, size in (("easy", 99), ("hard", 99), ("few", 2), ("others", 99))
        for k in range(size)
    ]
    scheduler = make_scheduler(
        problems,
        sampler=sampler,
        num_problems=8,
        quotas={"easy": 0.3, "hard": 0.2, "few": 0.25},
        retire={"pass_rate": 0.6, "certainty": 0.9, "review_share": 0.1},
        defer={"after": 1, "first_steps": 20, "most_steps": 20},
    )
    world = stage.World(lambda problem, step: rates[problem.source], is_exact=True)
    drawn = Counter()
    for step in range(1, 41):
        drawn.update(stage.play_step(scheduler, world, step, num_wanted=8).sources)
    assert drawn == {"easy": 96, "hard": 64, "few": 80, "others": 80}
    assert scheduler.metrics(40)["curriculum/retired_count"] > 0
    assert scheduler.metrics(40)["curriculum/deferred_count"] > 0


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_others_make_up_for_a_source_that_is_smaller_than_its_quota(make_scheduler, stage, sampler):
    problems = [
        stage.make_problem(f"{source}{k}", source=source)
        for source, size in (("few", 3), ("many", 30))
        for k in range(size)
    ]
    scheduler = make_scheduler(
        problems, sampler=sampler, num_problems=10, quotas={"few": 0.5, "many": 0.5}
    )
    for step in range(1, 11):
        played = stage.play_step(scheduler, stage.World(lambda *_: 0.5), step, num_wanted=10)
        assert Counter(played.sources) == {"few": 3, "many": 7}
        assert len(set(played.keys)) == 10


def test_a_state_that_is_loaded_is_not_shared_with_who_gave_it(build, stage, world):
    first, second = build("greso", "whole", "mixed"), build("greso", "whole", "mixed")
    stage.play_step(first, world, 1, num_wanted=NUM_WANTED)
    state = first.state_dict()
    kept = {name: column.copy() for name, column in state["columns"].items()}
    second.load_state_dict(state)
    for step in (2, 3):
        stage.play_step(second, world, step, num_wanted=NUM_WANTED)
    assert all(np.array_equal(column, kept[name]) for name, column in state["columns"].items())


def test_probes_that_wait_are_finished_after_a_resume_alike(build, stage, world, tmp_path):
    whole = build("posterior", "probe", "mixed")
    for step in (1, 2, 3):
        stage.play_step(whole, world, step, num_wanted=NUM_WANTED)
    assert whole.metrics(3)["curriculum/probes_waiting"] > 0
    resumed = through_disk(whole, build("posterior", "probe", "mixed"), tmp_path)
    ended = [
        stage.play_step(each, world, 4, num_wanted=NUM_WANTED).admitted for each in (whole, resumed)
    ]
    assert ended[0] == ended[1] and ended[0]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_an_edited_reordered_and_merged_pool_keeps_what_is_known_by_key(
    make_scheduler, stage, tmp_path, sampler
):
    old = [stage.make_problem(f"q{k}", level=1 + k % 2) for k in range(12)]
    before = make_scheduler(old, sampler=sampler, defer={"after": 1})
    world = stage.World(lambda problem, step: 0.0 if problem.key == old[0].key else 0.6)
    for step in range(1, 13):
        stage.play_step(before, world, step, num_wanted=4)
    new = [stage.make_problem(f"r{k}", level=k % 3, source="other") for k in range(5)]
    edited = [*new[:2], *reversed(old[4:]), *new[2:], *old[:3]]  # old[3] is gone.
    after = through_disk(before, make_scheduler(edited, sampler=sampler), tmp_path)
    rows = {key: row for row, key in enumerate(before.row_names)}
    kept = [row for row, problem in enumerate(edited) if problem.key in rows]
    theirs = [rows[edited[row].key] for row in kept]
    for parameter in ("a", "b"):
        belief = [getattr(each.beliefs(), parameter) for each in (after, before)]
        assert np.array_equal(belief[0][kept], belief[1][theirs])
    states = [each.state_dict()["columns"] for each in (after, before)]
    assert states[0].keys() == states[1].keys()
    for name, column in states[0].items():
        assert np.array_equal(column[kept], states[1][name][theirs]), name
        assert not np.delete(column, kept).any(), name
    assert np.asarray(after.beliefs().mean)[:2].tolist() == [0.5, 0.5]
    assert after.explain(old[0].key, step=13)[0] == before.explain(old[0].key, step=13)[0]
    stage.play_step(after, stage.World(lambda *_: 0.5), 13, num_wanted=4)


def test_a_stream_that_joins_the_pool_starts_at_its_first_problems(build, stage, world, tmp_path):
    before = build("posterior", "whole", "finite")
    for step in range(1, 6):
        stage.play_step(before, world, step, num_wanted=NUM_WANTED)
    after = build("posterior", "whole", "mixed")
    first = list(after.problems)
    through_disk(before, after, tmp_path)
    assert list(after.problems) == first
    assert after.visits_N.sum() == before.visits_N.sum() > 0
