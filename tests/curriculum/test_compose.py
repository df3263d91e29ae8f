"""From the recipe's `curriculum` section to a scheduler, and what is refused on the way."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rl_llm.config import NamedPart
from rl_llm.curriculum import (
    GATES,
    SAMPLERS,
    PoolBelief,
    PoolIndex,
    build_gates,
    build_sampler,
)
from rl_llm.errors import ConfigError, PluginError

OWN_SAMPLER = """
from rl_llm.curriculum import Uniform

class Last(Uniform):
    def __init__(self, *, index, seed, shift: int = 0):
        super().__init__(index=index, seed=seed)
        self.shift = shift

class Curious(Uniform):
    def __init__(self, *, belief, group_size, index, seed):
        super().__init__(index=index, seed=seed)
        self.given = (belief, group_size, index, seed)

class Lazy:
    def plan(self, step, num_problems, *, round=0, exclude=None):
        return []
"""


@pytest.fixture
def build(make_problems):
    """Return `(sampler's name, **options) -> sampler` over a pool of 3."""
    index = PoolIndex.of(make_problems(3))
    belief = PoolBelief(index)

    def make(name, **options):
        part = NamedPart(name=name, **options)
        return build_sampler(part, index=index, belief=belief, seed=5, group_size=8)

    make.index, make.belief = index, belief
    return make


@pytest.fixture
def own_file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(OWN_SAMPLER)
    return path


def test_every_name_in_the_tables_builds(build):
    assert len(SAMPLERS) == 7
    assert {name: type(build(name)) for name in SAMPLERS} == SAMPLERS
    gates = build_gates([NamedPart(name=name) for name in GATES])
    assert [type(gate) for gate in gates] == list(GATES.values())


def test_an_unknown_name_is_answered_with_the_nearest(build):
    with pytest.raises(PluginError, match=r"curriculum\.sampler\.name='posteriour'.*'posterior'"):
        build("posteriour")
    with pytest.raises(PluginError, match=r"curriculum\.gates\.1\.name='informativ'"):
        build_gates([NamedPart(name="informative"), NamedPart(name="informativ")])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"flor": 0.1}, r"curriculum\.sampler\.flor: unknown option.*'floor'"),
        ({"floor": "much"}, r"curriculum\.sampler\.floor='much'"),
        ({"floor": 2.0}, r"curriculum\.sampler: floor=2\.0: must be from 0 to 1"),
        (
            {"kernel": "round"},
            r"curriculum\.sampler\.kernel='round'.*'flat', 'variance' or 'headroom'",
        ),
        ({"seed": 3}, r"curriculum\.sampler\.seed: unknown option"),
        ({"belief": {}}, r"curriculum\.sampler\.belief: unknown option"),
        ({"prior_strength": 3.0}, r"curriculum\.sampler\.prior_strength: unknown option"),
    ],
)
def test_wrong_options_name_their_path_in_the_recipe(build, options, message):
    with pytest.raises(ConfigError, match=message):
        build("posterior", **options)


def test_wrong_options_of_a_gate_name_its_place_in_the_list():
    with pytest.raises(ConfigError, match=r"curriculum\.gates\.1: low=0\.9 with high=0\.1"):
        build_gates([NamedPart(name="informative"), NamedPart(name="range", low=0.9, high=0.1)])


def test_a_gate_knows_the_group_size_of_the_run(make_scheduler, make_problems):
    narrow = [{"name": "range", "low": 0.6, "high": 0.7}]
    make_scheduler(make_problems(2), group_size=3, gates=narrow)
    with pytest.raises(ConfigError, match=r"curriculum\.gates\.0: low=0\.6 .*group_size=4 "):
        make_scheduler(make_problems(2), group_size=4, gates=narrow)
    with pytest.raises(ConfigError, match=r"gates\.0\.group_size: unknown option"):
        make_scheduler(make_problems(2), gates=[{"name": "range", "group_size": 3}])


def test_a_gate_that_drops_every_group_is_refused(make_scheduler, make_problems):
    solved = [{"name": "range", "low": 0.9, "high": 1.0}]
    make_scheduler(make_problems(2), group_size=8, gates=solved)
    dead = {
        "a probe finishes mixed groups alone": {"probe": {"completions": 2, "problems": 2}},
        "the other gate admits mixed groups alone": {"gates": [{"name": "informative"}, *solved]},
    }
    for sections in dead.values():
        with pytest.raises(ConfigError, match=r"curriculum\.gates\.\d: low=0\.9 with high=1\.0"):
            make_scheduler(make_problems(2), group_size=8, **{"gates": solved, **sections})
    with pytest.raises(ConfigError, match=r"curriculum\.gates\.0: rollout\.group_size=1: one "):
        make_scheduler(make_problems(2), group_size=1, gates=[{"name": "informative"}])


def test_a_class_of_ones_own_is_found_by_file(build, own_file):
    sampler = build(f"{own_file}:Last", shift=2)
    assert sampler.shift == 2
    assert sorted(sampler.plan(0, 3)) == [0, 1, 2]


def test_a_sampler_is_given_what_it_names(build, own_file):
    assert build(f"{own_file}:Curious").given == (build.belief, 8, build.index, 5)


def test_a_class_that_is_missing_or_lacks_methods_is_refused(build, own_file):
    with pytest.raises(PluginError, match=r"defines no callable 'Lst' \(did you mean 'Last'\?\)"):
        build(f"{own_file}:Lst")
    with pytest.raises(PluginError, match="has no observe, state_dict, load_state_dict"):
        build(f"{own_file}:Lazy")


def test_a_sampler_that_cannot_be_asked_for_a_plan_is_refused_at_once(build, own_file):
    with own_file.open("a") as file:
        file.write("class Short(Last):\n    def plan(self, step, n):\n        return []\n")
    with pytest.raises(PluginError, match=r"Short: plan cannot be called as plan\(step, .*'round'"):
        build(f"{own_file}:Short")


def test_a_sampler_whose_state_no_checkpoint_can_hold_is_refused_at_once(build, own_file):
    with own_file.open("a") as file:
        file.write("class Forgetful(Last):\n    def state_dict(self):\n        return {}\n")
    with pytest.raises(PluginError, match=r"state_dict\(\) returned \{\}; it must return"):
        build(f"{own_file}:Forgetful")


@pytest.mark.parametrize(
    "state", ['{"columns": {"w": np.zeros(7)}, "rest": {}}', '{"columns": {}, "rest": {1, 2}}']
)
def test_a_state_of_another_length_or_that_json_cannot_hold_is_refused_at_once(
    build, own_file, state
):
    with own_file.open("a") as file:
        file.write(
            "import numpy as np\nclass Odd(Last):\n"
            f"    def state_dict(self):\n        return {state}\n"
        )
    with pytest.raises(PluginError, match=r"with a value for each problem"):
        build(f"{own_file}:Odd")


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"quotas": {"t": 0.5}}, r"curriculum\.quotas\.t: data\.train has no source 't'"),
        ({"quotas": {"s": 0.5}}, r"curriculum\.quotas sum to 0\.5, and every source has one"),
        ({"prerequisites": {"t": "in_order"}}, r"curriculum\.prerequisites\.t: data\.train has no"),
        ({"prerequisites": {"s": {2: [9]}}}, r"curriculum\.prerequisites\.s: s has no level 9"),
        ({"defer": {"first_steps": 9, "most_steps": 3}}, r"curriculum\.defer: most_steps=3"),
    ],
)
def test_what_does_not_fit_the_pool_names_its_path_in_the_recipe(
    make_scheduler, make_problems, section, message
):
    problems = make_problems(2) + make_problems(2, level=2, first=2)
    with pytest.raises(ConfigError, match=message):
        make_scheduler(problems, **section)


def test_the_prior_strength_reaches_the_belief(make_scheduler, make_problems):
    scheduler = make_scheduler(make_problems(2), belief={"prior_strength": 6.0})
    assert (scheduler.beliefs().a + scheduler.beliefs().b).tolist() == [6.0, 6.0]


@pytest.fixture
def show(make_scheduler, make_problems, score_group):
    """Return `(belief, *(position, correct)) -> beliefs` about 3 problems of one bucket, of which a
    step each shows a group of 4."""

    def show(belief, *shown):
        problems = make_problems(3)
        scheduler = make_scheduler(problems, num_problems=3, group_size=4, belief=belief)
        for step, (position, correct) in enumerate(shown, start=1):
            scheduler.plan(step)
            scheduler.observe([score_group(problems[position], correct)], step=step)
        return scheduler.beliefs()

    return show


NONE, ALL = [0, 0, 0, 0], [1, 1, 1, 1]


def test_the_visit_decay_reaches_the_belief_and_a_whole_group_is_a_visit(show):
    belief = show({"visit_decay": 0.5}, (0, [1, 1, 0, 0]), (0, [1, 1, 0, 0]))
    # Half of the prior of 3, half of the first 2 completions, and the second 2; all stays at 1/2.
    assert belief.a == pytest.approx([4.5, 1.5, 1.5])
    assert belief.b == pytest.approx([4.5, 1.5, 1.5])


def test_the_bucket_decay_reaches_the_belief(show):
    # The first step takes the bucket to .5 / 5 = .1, with c = 4. The second shows a problem of
    # which no more was known: (.1 (4 * .5 + 1) + 4) / (4 + 4 * .5 + 1).
    belief = show({"bucket_decay": 0.5}, (0, NONE), (1, ALL))
    assert belief.mean[2] == pytest.approx(4.3 / 7)


def test_the_largest_drift_reaches_the_belief(show):
    # The bucket goes from .1 to (.1 + 4) / 5 = .82, and takes own evidence of 4 wrong ones along
    # unless that is held: a = 3 * .82 and b = 3 * .18 + 4.
    belief = show({"max_drift": 0.0, "bucket_decay": 0.0}, (0, NONE), (1, ALL))
    assert (belief.a[0], belief.b[0]) == pytest.approx((2.46, 4.54))


@pytest.mark.parametrize("is_off", [True, False])
def test_null_turns_retirement_and_waits_off(make_scheduler, make_problems, stage, is_off):
    quick = {
        "retire": {"pass_rate": 0.5, "certainty": 0.6, "review_share": 0.0},
        "defer": {"after": 1},
    }
    scheduler = make_scheduler(
        make_problems(8), num_problems=8, **(dict.fromkeys(quick) if is_off else quick)
    )
    world = stage.World(lambda problem, step: int(problem.prompt[1:]) % 2, is_exact=True)
    for step in (1, 2):
        stage.play_step(scheduler, world, step, num_wanted=8)
    metrics = scheduler.metrics(2)
    resting = [metrics[f"curriculum/{name}_count"] for name in ("retired", "deferred")]
    assert resting == ([0.0, 0.0] if is_off else [4.0, 4.0])


def test_a_pass_rate_column_of_the_data_is_believed_from_the_start_and_said(make_scheduler, stage):
    rated = stage.make_problem("q0", level=1, pass_rate=0.25)
    unknown = stage.make_problem("q1", level=2)
    scheduler = make_scheduler([rated, unknown], priors={"strength": 9.0})
    # The bucket starts at (9 * .25 + .5) / 10 = .275; a = 3 * .275 + 2.25, b = 3 * .725 + 6.75.
    assert scheduler.beliefs().a == pytest.approx([3.075, 1.5])
    assert scheduler.beliefs().b == pytest.approx([8.925, 1.5])
    assert scheduler.take_messages() == ["priors: 1 of 2 problems known from the column pass_rate"]
    assert scheduler.visits_N.tolist() == [0, 0]


def test_priors_of_a_file_replace_the_column_and_are_worth_what_they_were_measured_with(
    make_scheduler, stage, tmp_path
):
    problems = [stage.make_problem(f"q{k}", level=k, pass_rate=0.9) for k in range(2)]
    table = {"key": [problems[0].key], "pass_rate": [0.5], "num_counted": [4]}
    pq.write_table(pa.table(table), tmp_path / "measured.parquet")
    scheduler = make_scheduler(problems, priors={"path": str(tmp_path / "measured.parquet")})
    assert scheduler.beliefs().a == pytest.approx([1.5 + 2.0, 1.5])
    assert scheduler.take_messages() == [
        "priors: 1 of 2 problems known from measured.parquet; the column pass_rate knows 1 more, "
        "and does not count beside curriculum.priors.path"
    ]


def test_a_column_that_knows_no_more_than_the_files_is_not_mentioned(
    make_scheduler, stage, tmp_path
):
    problems = [stage.make_problem("q0", pass_rate=0.9), stage.make_problem("q1", pass_rate=None)]
    table = {"key": [problems[0].key], "pass_rate": [0.5]}
    pq.write_table(pa.table(table), tmp_path / "measured.parquet")
    scheduler = make_scheduler(problems, priors={"path": str(tmp_path / "measured.parquet")})
    assert scheduler.take_messages() == ["priors: 1 of 2 problems known from measured.parquet"]


def test_without_priors_nothing_is_said(make_scheduler, make_problems):
    assert make_scheduler(make_problems(2)).take_messages() == []


def test_a_step_that_locked_levels_leave_too_small_is_said(make_scheduler, make_problems):
    problems = make_problems(3) + make_problems(60, level=2, first=3)
    in_order = {problems[0].source: "in_order"}
    assert make_scheduler(problems, num_problems=16, prerequisites=in_order).take_messages() == [
        "curriculum.prerequisites: 3 of 63 problems are open at first, and a step asks for 16: "
        "steps are smaller until levels open"
    ]
    probed = make_scheduler(
        problems, prerequisites=in_order, probe={"completions": 2, "problems": 5}
    )
    assert ["a step asks for 5:" in said for said in probed.take_messages()] == [True]
    resumed = make_scheduler(problems, num_problems=16, prerequisites=in_order)
    resumed.load_state_dict(resumed.state_dict())
    assert resumed.take_messages() == []
    assert make_scheduler(problems, num_problems=3, prerequisites=in_order).take_messages() == []
    assert make_scheduler(problems[:2], num_problems=16).take_messages() == []


def test_the_order_in_which_named_levels_open_is_said(make_scheduler, make_problems):
    problems = make_problems(3, level="easy") + make_problems(3, level="hard", first=3)
    said = make_scheduler(
        problems, num_problems=2, prerequisites={problems[0].source: "in_order"}
    ).take_messages()
    assert ["levels open in this order: easy, hard (names" in line for line in said] == [True]


def test_what_a_sampler_remarks_of_the_pool_is_said(make_scheduler, make_problems):
    said = make_scheduler(make_problems(2), sampler={"name": "ladder", "width": 1}).take_messages()
    assert ["it never moves there and draws evenly" in line for line in said] == [True]


def test_a_stated_difficulty_is_put_to_use(make_scheduler, stage):
    """Those drawn show that more difficulty means less solved; those not drawn are believed so."""
    problems = [stage.make_problem(f"q{k}", difficulty=k % 2) for k in range(60)]
    scheduler = make_scheduler(problems, num_problems=8)
    world = stage.World(
        lambda problem, step: 0.75 - 0.5 * problem.meta["difficulty"], is_exact=True
    )
    for step in (1, 2):
        stage.play_step(scheduler, world, step, num_wanted=8)
    mean_N = np.asarray(scheduler.beliefs().mean)
    unseen_N = scheduler.visits_N == 0
    assert unseen_N[0::2].any() and unseen_N[1::2].any()
    easy, hard = mean_N[0::2][unseen_N[0::2]], mean_N[1::2][unseen_N[1::2]]
    assert easy.min() > 0.6 and hard.max() < 0.4


def test_a_stated_difficulty_is_learnt_from_the_first_group_of_a_problem_alone(
    make_scheduler, stage, score_group
):
    problems = [stage.make_problem(f"q{k}", difficulty=k) for k in range(2)]
    scheduler = make_scheduler(problems, num_problems=2)
    slopes = []
    for step in (1, 2):
        scheduler.plan(step)
        scheduler.observe(
            [score_group(problems[0], ALL), score_group(problems[1], NONE)], step=step
        )
        slopes.append(scheduler.state_dict()["rest"]["difficulty"]["slopes"]["s"])
    assert slopes[0][0] < -0.5
    assert slopes[1] == slopes[0]


def test_the_prior_strength_decides_how_much_a_group_says_of_difficulty(
    make_scheduler, stage, score_group
):
    """With strength 1 four completions of a problem count as 4 * 2/5, with 1e6 as 4."""
    slopes = []
    for strength in (1.0, 1e6):
        problems = [stage.make_problem(f"q{k}", difficulty=k) for k in range(2)]
        scheduler = make_scheduler(problems, belief={"prior_strength": strength}, num_problems=2)
        scheduler.plan(1)
        scheduler.observe([score_group(problems[0], ALL), score_group(problems[1], NONE)], step=1)
        slopes.append(scheduler.state_dict()["rest"]["difficulty"]["slopes"]["s"][0])
    # b = -8 sigmoid(b) / effect, from -b less twice 4 sigmoid(b) / effect
    assert slopes == pytest.approx([-0.915, -1.482], abs=1e-3)


def test_streams_make_their_buckets_endless(make_scheduler, make_problems, stage):
    stream = stage.ScriptedStream("flow", size=3)
    scheduler = make_scheduler([*make_problems(2), *stream.batch(0)], streams=(stream,))
    assert scheduler.index.bucket_names == ("s/level=1", "flow/level=1")
    assert scheduler.index.endless_K.tolist() == [False, True]
    assert [name[:14] for name in scheduler.row_names[2:]] == [
        "flow/level=1#0",
        "flow/level=1#1",
        "flow/level=1#2",
    ]
