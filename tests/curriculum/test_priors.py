import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rl_llm.curriculum import Outcomes, PoolBelief, PoolIndex, store
from rl_llm.curriculum.priors import evidence_for, read_priors, write_beliefs
from rl_llm.errors import DataError, InputError
from rl_llm.records import Problem, content_key


def problem(text, *, level=1, **meta):
    return Problem(
        key=content_key(text, "a"), prompt=text, answer="a", level=level, source="s", meta=meta
    )


@pytest.fixture
def write(tmp_path):
    """Return `(name, **columns) -> path`; prompts under `q` become keys."""

    def make(name, *, q, **columns):
        keys = [content_key(text, "a") for text in q]
        pq.write_table(pa.table({"key": keys, **columns}), tmp_path / name)
        return str(tmp_path / name)

    return make


def completions(evidence):
    pairs = zip(evidence.correct_N.tolist(), evidence.wrong_N.tolist(), strict=True)
    return [pytest.approx(pair) for pair in pairs]


def test_a_prior_is_worth_its_completions_but_no_more_than_the_strength(write):
    path = write("measured.parquet", q=["a", "b"], pass_rate=[0.75, 0.75], num_counted=[4, 64])
    pool = [problem("b"), problem("new"), problem("a")]
    evidence = evidence_for(pool, read_priors(path), strength=8.0)
    assert completions(evidence) == [(6.0, 2.0), (0.0, 0.0), (3.0, 1.0)]


def test_a_bare_rate_is_worth_the_strength(write):
    bare = write("bare.parquet", q=["a"], pass_rate=[0.25])
    evidence = evidence_for([problem("a")], read_priors([bare]), strength=8.0)
    assert completions(evidence) == [(2.0, 6.0)]


def test_of_several_files_the_last_wins_for_a_key_that_stands_in_both(write):
    old = write("old.parquet", q=["a", "b"], pass_rate=[0.0, 0.25])
    new = write("new.parquet", q=["c", "a"], pass_rate=[0.5, 1.0])
    evidence = evidence_for(
        [problem(text) for text in "abc"], read_priors([old, new]), strength=4.0
    )
    assert completions(evidence) == [(4, 0), (1, 3), (2, 2)]
    assert evidence.summary == "priors: 3 of 3 problems known from old.parquet, new.parquet"


def test_rows_without_a_rate_or_without_a_counted_completion_say_nothing(write):
    path = write("m.parquet", q=["a", "b"], pass_rate=[None, 0.5], num_counted=[0, 0])
    evidence = evidence_for([problem("a"), problem("b")], read_priors(path), strength=8.0)
    assert completions(evidence) == [(0, 0), (0, 0)]
    assert evidence.summary == "priors: 0 of 2 problems known from m.parquet"


def test_files_that_know_none_of_the_problems_are_said_to_know_others(write):
    path = write("m.parquet", q=["x", "y"], pass_rate=[0.5, 0.25])
    evidence = evidence_for([problem("a")], read_priors(path), strength=8.0)
    assert evidence.summary == (
        "priors: 0 of 1 problems known from m.parquet, which knows 2 others; a key stands for the "
        "prompt and the answer as the recipe's data make them"
    )


def test_without_a_file_the_column_of_the_data_counts(write):
    pool = [problem("a", pass_rate=0.25), problem("b"), problem("c", pass_rate=1)]
    evidence = evidence_for(pool, None, strength=8.0)
    assert completions(evidence) == [(2, 6), (0, 0), (8, 0)]
    assert evidence.summary == "priors: 2 of 3 problems known from the column pass_rate"
    named = evidence_for(
        pool, read_priors(write("x.parquet", q=["b"], pass_rate=[0.5])), strength=2
    )
    assert completions(named) == [(0, 0), (1, 1), (0, 0)]


@pytest.mark.parametrize("value", ["0.5", True, 50, -0.1, float("nan")])
def test_a_column_that_holds_no_share_is_refused_with_the_key(value):
    pool = [problem("a", pass_rate=0.5), problem("b", pass_rate=value)]
    with pytest.raises(DataError, match=f"{content_key('b', 'a')}.*pass_rate={value!r}.*0 to 1"):
        evidence_for(pool, None, strength=8.0)


def test_files_that_hold_no_priors_are_refused_by_what_they_lack(write, tmp_path):
    with pytest.raises(DataError, match=r"there is no file .*no/such\.parquet"):
        read_priors("no/such.parquet")
    text = tmp_path / "text.parquet"
    text.write_text("no parquet")
    with pytest.raises(DataError, match=r"text\.parquet cannot be read as parquet"):
        read_priors(str(text))
    with pytest.raises(DataError, match=r"lacks pass_rate; .*data beliefs RUN"):
        read_priors(write("state.parquet", q=["a"], visits=[1]))
    with pytest.raises(DataError, match=f"pass_rate=62.5 of key {content_key('b', 'a')}"):
        read_priors(write("percent.parquet", q=["a", "b"], pass_rate=[0.5, 62.5]))
    with pytest.raises(DataError, match="'pass_rate' holds string, not numbers; write"):
        read_priors(write("words.parquet", q=["a"], pass_rate=["0.5"]))
    with pytest.raises(DataError, match="'pass_rate' holds bool, not numbers; write it as float64"):
        read_priors(write("marks.parquet", q=["a"], pass_rate=[True]))
    negative = write("negative.parquet", q=["a", "b"], pass_rate=[0.5, 0.5], num_counted=[-8, None])
    with pytest.raises(DataError, match=r"num_counted=-8 is no number of completions; .* 0 or"):
        read_priors(negative)
    with pytest.raises(DataError, match="a key stands in more than one row"):
        read_priors(write("twice.parquet", q=["a", "a"], pass_rate=[0.5, 0.5]))


def believing(pool, *, step=5, **num_correct):
    """`believing(pool, p0=3)`: after a visit in which 3 of 8 completions of problem 0 are right."""
    belief = PoolBelief(PoolIndex.of(pool))
    indices = np.array([int(name[1:]) for name in num_correct])
    belief.observe(
        Outcomes(
            indices=indices,
            num_correct=np.array(list(num_correct.values())),
            num_counted=np.full(len(indices), 8),
            step=step,
        )
    )
    return belief


def export(path, pool, belief, *, visited=(), step=5):
    visits_N = np.zeros(len(pool), np.uint16)
    visits_N[list(visited)] = 1
    return write_beliefs(path, problems=pool, belief=belief, visits_N=visits_N, step=step)


def started_with(path, pool, *, strength=100.0):
    """Return the belief of a run that starts with a file."""
    evidence = evidence_for(pool, read_priors(str(path)), strength=strength)
    belief = PoolBelief(PoolIndex.of(pool))
    belief.set_priors(evidence.correct_N, evidence.wrong_N)
    return belief


def test_beliefs_survive_edits_reordering_and_merging_of_data_sets(tmp_path):
    first, second = ([problem(text) for text in texts] for texts in ("abc", "xyz"))
    export(tmp_path / "first.parquet", first, believing(first, p0=0, p1=8), visited=[0, 1])
    export(tmp_path / "second.parquet", second, believing(second, p0=4, p1=6, p2=2))
    merged = ["y", "new", "b", "x", "a"]  # c and z are gone, another order, one more
    paths = [str(tmp_path / "first.parquet"), str(tmp_path / "second.parquet")]
    evidence = evidence_for([problem(t) for t in merged], read_priors(paths), strength=100.0)
    # Both rounds leave the bucket at 1/2, so evidence stays what it was.
    known = {"y": (6, 2), "new": (0, 0), "b": (8, 0), "x": (4, 4), "a": (0, 8)}
    np.testing.assert_allclose(
        np.stack([evidence.correct_N, evidence.wrong_N], axis=1),
        [known[text] for text in merged],
        atol=1e-5,
    )
    assert evidence.num_known == 4


def test_a_problem_without_evidence_of_its_own_is_not_written(tmp_path):
    pool = [problem(text) for text in "abc"]
    assert export(tmp_path / "b.parquet", pool, believing(pool, p1=8), visited=[1], step=7) == 1
    [row] = pq.read_table(tmp_path / "b.parquet").to_pylist()
    assert (row["key"], row["source"], row["level"]) == (content_key("b", "a"), "s", "1")
    assert (row["visits"], row["step"]) == (1, 7)
    assert row["num_correct"] == row["num_counted"] * row["pass_rate"]


def test_what_a_run_has_learnt_of_problems_is_believed_again_where_buckets_are_equal(tmp_path):
    pool = [problem(text) for text in "abc"]
    belief = believing(pool, p0=2, p1=6)
    export(tmp_path / "beliefs.parquet", pool, belief)
    again = started_with(tmp_path / "beliefs.parquet", pool)
    assert belief.bucket_rates()[0] == pytest.approx(0.5) == again.bucket_rates()[0]
    for found in (belief, again):  # 3 completions at 1/2, and 8 of its own
        beta = found.beta(slice(None))
        np.testing.assert_allclose(beta.a, [3.5, 7.5, 1.5], rtol=1e-5)
        np.testing.assert_allclose(beta.b, [7.5, 3.5, 1.5], rtol=1e-5)


def test_a_round_trip_makes_nothing_stronger(tmp_path):
    pool = [problem(text) for text in "abc"]
    belief = believing(pool, p0=3, p1=8)
    for name in ("first", "second"):
        export(tmp_path / name, pool, belief)
        belief = started_with(tmp_path / name, pool)
    first, second = (pq.read_table(tmp_path / name) for name in ("first", "second"))
    for column in ("num_correct", "num_counted"):
        np.testing.assert_allclose(second[column], first[column], rtol=1e-5)
    beta = belief.beta(slice(None))
    np.testing.assert_allclose(beta.a + beta.b, [11.0, 11.0, 3.0], rtol=1e-5)


def test_a_pool_starts_with_what_another_run_believed(tmp_path):
    pool = [problem("hard"), problem("easy"), problem("new")]
    export(tmp_path / "beliefs.parquet", pool[:2], believing(pool[:2], p0=0, p1=8))
    started = started_with(tmp_path / "beliefs.parquet", pool, strength=5.0)
    # own evidence 0 of 5 and 5 of 5, beside 3 completions at the bucket's 1/2
    means = started.beta(slice(None)).mean
    np.testing.assert_allclose(means, [1.5 / 8, 6.5 / 8, 1 / 2], rtol=1e-5)


def test_the_state_of_a_checkpoint_is_no_prior_and_the_message_names_the_way(tmp_path):
    path = tmp_path / "curriculum.parquet"
    store.save(path, ["k"], {"columns": {"visits": np.ones(1, np.uint16)}, "rest": {}})
    with pytest.raises(DataError, match="`rl-llm data beliefs RUN` writes"):
        read_priors(str(path))


def test_a_file_that_cannot_be_written_is_named(tmp_path):
    pool = [problem("a")]
    with pytest.raises(InputError, match=r"none/x\.parquet cannot be written"):
        export(tmp_path / "none" / "x.parquet", pool, believing(pool, p0=1))
