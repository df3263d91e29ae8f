"""Groups in two phases, on an engine that follows a script: 2 completions first, then 3 more."""

import json
import random
from dataclasses import replace

import pytest

from rl_llm.curriculum.probe import Call, ProbeThenFinish, most_completions
from rl_llm.records import Completion, Group, Score, ScoredGroup


@pytest.fixture
def problems(make_problems):
    return make_problems(40)


@pytest.fixture
def make_probe():
    def make(*, max_finished=2, num_probes=4):
        return ProbeThenFinish(
            num_init=2, num_rest=3, max_finished=max_finished, num_probes=num_probes
        )

    return make


def scored(problem, marks, *, version=0):
    """Build a group of a completion a mark: right is `+`, wrong is `-`, a failed reward is `?`."""
    number = int(problem.prompt[1:])
    completions = tuple(
        Completion(
            token_ids=(number, 10 * version + place, 1),
            logprobs=(-0.1 * (place + 1), -1 / 3, -float(version)),
            text=f"{problem.prompt} {place}\n\ud800",
            finish_reason="length" if place else "stop",
            policy_version=version,
        )
        for place, _ in enumerate(marks)
    )
    scores = tuple(
        Score(
            total=1.1 if mark == "+" else 0.1,
            parts={"exact": float(mark == "+"), "format": 0.1},
            correct=mark == "+",
            error="boom" if mark == "?" else None,
        )
        for mark in marks
    )
    group = Group(problem=problem, prompt_ids=(7, number), completions=completions)
    return ScoredGroup(group=group, scores=scores)


def probe_all(probe, problems, marks):
    """Give every problem in turn the probe that `marks` spell."""
    pairs = zip(problems, marks.split(), strict=True)
    return probe.take([scored(problem, own) for problem, own in pairs])


def prompts(problems):
    return [problem.prompt for problem in problems]


def finish(probe, call, *, marks="+-+", version=1):
    return probe.take([scored(problem, marks, version=version) for problem in call.finishing])


def test_the_first_step_probes_and_then_finishes_while_it_probes_again(make_probe, problems):
    probe = make_probe()
    probe.begin_step(is_last=False)
    first = probe.next_call()
    assert (first.finishing, first.num_probes) == ((), 4)
    probe_all(probe, problems[:4], "+- -- ++ -+")
    second = probe.next_call()
    assert (prompts(second.finishing), second.num_probes) == (["q0", "q3"], 4)
    finish(probe, second)
    probe_all(probe, problems[4:8], "+- -- -- --")
    third = probe.next_call()
    assert (third.finishing, third.num_probes) == ((), 0)


def test_a_later_step_makes_one_call(make_probe, problems):
    probe = make_probe()
    probe.begin_step(is_last=False)
    probe.next_call()
    probe_all(probe, problems[:4], "+- -- -- --")
    finish(probe, probe.next_call())
    probe_all(probe, problems[4:8], "+- -- -- --")
    probe.begin_step(is_last=False)
    only = probe.next_call()
    assert (prompts(only.finishing), only.num_probes) == (["q4"], 4)
    finish(probe, only)
    probe_all(probe, problems[8:12], "+- -- -- --")
    assert probe.next_call().finishing == () and probe.held_keys == [problems[8].key]


def test_a_step_whose_probes_are_all_equal_ends_with_nothing_finished(make_probe, problems):
    probe = make_probe()
    probe.begin_step(is_last=False)
    probe.next_call()
    ended = probe_all(probe, problems[:4], "-- ++ -- ++")
    assert ended.finished == () and len(ended.dropped) == 4 and probe.held_keys == []
    assert probe.next_call().num_probes == 0


def test_a_finished_group_is_the_probe_and_then_the_rest_each_completion_as_it_came(
    make_probe, problems
):
    probe = make_probe()
    probe.begin_step(is_last=False)
    probe.next_call()
    probed = scored(problems[0], "+-", version=3)
    probe.take([probed])
    probe.next_call()
    rest = scored(problems[0], "--?", version=4)
    [whole] = probe.take([rest]).finished
    assert whole.group.completions == probed.group.completions + rest.group.completions
    assert whole.scores == probed.scores + rest.scores
    assert [c.policy_version for c in whole.group.completions] == [3, 3, 4, 4, 4]
    assert [c.logprobs[2] for c in whole.group.completions] == [-3.0, -3.0, -4.0, -4.0, -4.0]


def test_the_oldest_are_finished_first_and_a_full_queue_is_not_added_to(make_probe, problems):
    probe = make_probe(max_finished=2, num_probes=6)
    probe.begin_step(is_last=False)
    probe.next_call()
    probe_all(probe, problems[:6], "+- +- -+ -- +- +-")
    called = []
    for _ in range(3):
        call = probe.next_call()
        called.append((prompts(call.finishing), call.num_probes))
        finish(probe, call)
        probe.begin_step(is_last=False)
    # Three are left waiting behind the first call, at least max_finished; then one, then none.
    assert called == [(["q0", "q1"], 0), (["q2", "q4"], 6), (["q5"], 6)]


def test_as_many_waiting_as_a_step_finishes_are_enough(make_probe, problems):
    probe = make_probe(max_finished=2)
    probe.begin_step(is_last=False)
    probe.next_call()
    probe_all(probe, problems[:4], "+- +- +- +-")
    assert probe.next_call().num_probes == 0


def test_the_last_step_finishes_all_that_wait_and_probes_no_more(make_probe, problems):
    probe = make_probe(max_finished=2)
    probe.begin_step(is_last=False)
    probe.next_call()
    probe_all(probe, problems[:5], "+- +- +- +- +-")
    finish(probe, probe.next_call())
    probe.begin_step(is_last=True)
    call = probe.next_call()
    assert (prompts(call.finishing), call.num_probes) == (["q2", "q3", "q4"], 0)
    finish(probe, call)
    assert probe.next_call() == Call(finishing=(), num_probes=0) and probe.held_keys == []


def test_a_last_step_with_an_empty_queue_probes_and_loses_none_of_it(make_probe, problems):
    probe = make_probe(max_finished=2)
    probe.begin_step(is_last=True)
    assert probe.next_call().num_probes == 4
    probe_all(probe, problems[:4], "+- +- -- -+")
    call = probe.next_call()
    assert (prompts(call.finishing), call.num_probes) == (["q0", "q1", "q3"], 0)
    finish(probe, call)
    assert probe.next_call().finishing == () and probe.held_keys == []


def test_a_failed_reward_says_neither_right_nor_wrong(make_probe, problems):
    probe = make_probe()
    probe.begin_step(is_last=False)
    probe.next_call()
    ended = probe_all(probe, problems[:4], "+? -? ?? +-")
    assert prompts(g.group.problem for g in ended.dropped) == ["q0", "q1", "q2"]
    assert probe.held_keys == [problems[3].key]


def test_problems_are_held_from_their_probe_until_their_group_is_whole(make_probe, problems):
    probe = make_probe(max_finished=1)
    probe.begin_step(is_last=False)
    probe.next_call()
    probe_all(probe, problems[:3], "+- -- +-")
    held = [problems[0].key, problems[2].key]
    assert probe.held_keys == held
    assert not probe.finishing_keys
    call = probe.next_call()
    assert probe.held_keys == held and probe.finishing_keys == {held[0]}
    finish(probe, call)
    assert probe.held_keys == held[1:] and not probe.finishing_keys


def test_every_completion_ends_in_one_group_and_no_mixed_probe_is_lost(make_probe, problems):
    """Play 6 steps on a script: problem k is solved by every completion if k % 4 is 0, by none if
    it is 1, else by every other one."""
    probe = make_probe(max_finished=2, num_probes=4)
    generated, ended, fresh = [], [], iter(problems)
    for step in range(6):
        probe.begin_step(is_last=step == 5)
        while (call := probe.next_call()).finishing or call.num_probes:
            asked = [(p, 3) for p in call.finishing]
            asked += [(next(fresh), 2) for _ in range(call.num_probes)]
            groups = [
                scored(p, ("++++", "----", "+-+-", "-+-+")[int(p.prompt[1:]) % 4][:n], version=step)
                for p, n in asked
            ]
            generated += groups
            concluded = probe.take(groups)
            ended += [*concluded.finished, *concluded.dropped]

    def completions(groups):
        return sorted(
            (g.group.problem.key, c.policy_version, c.token_ids)
            for g in groups
            for c in g.group.completions
        )

    assert completions(ended) == completions(generated)
    mixed = [g for g in ended if int(g.group.problem.prompt[1:]) % 4 > 1]
    # 8 probes in the first step and 4 in each but the last: 24, of which half are mixed.
    assert len(mixed) == 12
    assert {len(g.scores) for g in mixed} == {5}
    assert {len(g.scores) for g in ended if g not in mixed} == {2}


def through_json(state):
    return {"columns": {}, "rest": json.loads(json.dumps(state["rest"], indent=1))}


def test_what_waits_goes_through_json_exactly_and_is_finished_alike(make_probe, problems):
    first = make_probe(max_finished=1)
    first.begin_step(is_last=False)
    first.next_call()
    probe_all(first, problems[:4], "+- -- +- -+")
    state = through_json(first.state_dict())
    second = make_probe(max_finished=1)
    second.load_state_dict(state, problems)
    assert second.state_dict() == first.state_dict() == state
    for probe in (first, second):
        probe.begin_step(is_last=True)
    calls = [probe.next_call() for probe in (first, second)]
    assert calls[0] == calls[1] and prompts(calls[0].finishing) == ["q0", "q2", "q3"]
    assert finish(first, calls[0]) == finish(second, calls[1])


def test_logprobs_survive_to_the_last_bit(make_probe, problems):
    awkward = (-0.1, -1e-300, -0.30000000000000004, float("-inf"), -5.877471754111438e-39)
    group = scored(problems[0], "+-")
    completion = replace(
        group.group.completions[0], token_ids=(1, 2, 3, 4, 5), logprobs=awkward, text="\ud800 \x00"
    )
    empty = replace(completion, token_ids=(), logprobs=())
    group = replace(group, group=replace(group.group, completions=(completion, empty)))
    first, second = make_probe(), make_probe()
    first.next_call()
    first.take([group])
    second.load_state_dict(through_json(first.state_dict()), problems)
    second.begin_step(is_last=False)
    second.next_call()
    [whole] = second.take([scored(problems[0], "-++")]).finished
    assert whole.group.completions[:2] == (completion, empty)
    assert whole.scores[:2] == group.scores


def test_a_problem_that_left_the_pool_takes_its_probe_with_it(make_probe, problems):
    first, second = make_probe(), make_probe()
    first.next_call()
    probe_all(first, problems[:4], "+- +- +- +-")
    second.load_state_dict(through_json(first.state_dict()), [problems[3], problems[1]])
    assert second.held_keys == [problems[1].key, problems[3].key]


@pytest.mark.parametrize(
    ("max_finished", "num_probes", "step"),
    [
        # 4 probes of 2 twice and 2 groups of 3 more; in a last step 1 + 4 groups wait for 3 each.
        (2, 4, 22),
        # All probes of a call are finished by the next: 3 of 2 twice and 3 groups of 3 more.
        (8, 3, 21),
        # 8 of 2 twice and a group of 3 more, where a last step from nothing makes 8 groups of 5.
        (1, 8, 40),
    ],
)
def test_a_step_asks_for_no_more_than_its_bound_and_reaches_it(
    make_problems, make_probe, max_finished, num_probes, step
):
    bound = most_completions(
        num_init=2, num_rest=3, max_finished=max_finished, num_probes=num_probes
    )
    assert bound == step
    rng, pool = random.Random(0), make_problems(100)
    probe, steps = make_probe(max_finished=max_finished, num_probes=num_probes), []

    def play(probe, *, is_last):
        probe.begin_step(is_last=is_last)
        free = iter([problem for problem in pool if problem.key not in probe.held_keys])
        asked = []
        while (found := probe.next_call()).finishing or found.num_probes:
            asked.append(3 * len(found.finishing) + 2 * found.num_probes)
            finish(probe, found)
            num_mixed = rng.randint(0, found.num_probes)
            marks = ["+-"] * num_mixed + ["--"] * (found.num_probes - num_mixed)
            probe.take([scored(next(free), own) for own in marks])
        steps.append(sum(asked))

    for _ in range(600):
        last = make_probe(max_finished=max_finished, num_probes=num_probes)
        last.load_state_dict(probe.state_dict(), pool)
        play(last, is_last=True)
        play(probe, is_last=False)
    assert max(steps) == step


def test_a_held_group_says_how_its_probe_came_out_and_where_it_is_in_line(make_probe, problems):
    probe = make_probe(max_finished=2)
    probe.next_call()
    probe_all(probe, problems[:4], "+- -- +- -+")
    assert probe.status(problems[2].key) == (
        "1 of 2 completions correct, so 3 more follow: number 2 of 3 that wait, of which a step "
        "finishes 2, and the last step all"
    )
    assert probe.status(problems[1].key) is None
