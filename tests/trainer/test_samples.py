"""Which completions of a step are kept for people to read."""

from rl_llm.records import Completion, Group, Problem, Score, ScoredGroup
from rl_llm.trainer.samples import training_samples


def group(key):
    completion = Completion(
        token_ids=(1,), logprobs=(0.0,), text=key, finish_reason="stop", policy_version=0
    )
    problem = Problem(key=key, prompt="p", answer="a")
    return ScoredGroup(
        group=Group(problem=problem, prompt_ids=(), completions=(completion,) * 2),
        scores=(Score(total=0.0, parts={}, correct=False),) * 2,
    )


def test_where_a_step_learnt_from_few_groups_dropped_ones_fill_up():
    beliefs = dict.fromkeys("abcdef", 0.5)

    def kept(admitted, dropped):
        rows = training_samples(
            [group(key) for key in admitted],
            [[1.0, -1.0]] * len(admitted),
            step=3,
            beliefs=beliefs,
            dropped=[group(key) for key in dropped],
        )
        return [(row["key"], row["advantage"]) for row in rows]

    assert kept("a", "bc") == [
        *[("a", 1.0), ("a", -1.0)],
        *[("b", 0.0), ("b", 0.0)],
        *[("c", 0.0), ("c", 0.0)],
    ]
    assert [key for key, _ in kept("abcde", "f")] == list("aabbccdd")


def test_with_a_critic_no_completion_has_an_advantage():
    rows = training_samples(
        [group("a")], None, step=3, beliefs={"a": 0.5, "b": 0.5}, dropped=[group("b")]
    )
    assert [(row["key"], row["advantage"]) for row in rows] == [(key, None) for key in "aabb"]
