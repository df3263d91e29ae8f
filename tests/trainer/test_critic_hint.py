"""When a person hears that the critic's advice is worse than none."""

from dataclasses import fields

from rl_llm.policy import CriticFacts, UpdateFacts
from rl_llm.trainer.critic_hint import CriticHint


def step(explained, **changes):
    """Return the facts of a step that moved the policy by what a critic had to say."""
    critic = CriticFacts(
        explained_variance=explained, value_loss=0.1, value_mean=0.5, grad_norm=1.0
    )
    blank = dict.fromkeys((field.name for field in fields(UpdateFacts)), 0)
    given = {"trained_tokens": 100, "policy_learns": True, "critic": critic}
    return UpdateFacts(**(blank | given | changes))


def heard(*steps):
    """Return in which of some steps, counted from 1, something is said."""
    hint = CriticHint()
    return [number for number, facts in enumerate(steps, 1) if hint(facts)]


def test_four_steps_in_a_row_below_nought_are_said_once():
    assert heard(*[step(-0.3)] * 12) == [4]
    (said,) = [line for hint in [CriticHint()] for _ in range(4) for line in hint(step(-0.3))]
    assert "(now -0.30)" in said and "algorithm.critic_lr or optim.epochs" in said


def test_a_step_that_explains_anything_starts_the_count_anew():
    assert heard(step(-0.3), step(-0.3), step(-0.3), step(0.1), *[step(-0.3)] * 4) == [8]
    assert heard(*[step(0.0)] * 9) == []  # all targets were equal


def test_steps_that_moved_no_policy_count_for_nothing():
    waits, idle = step(-0.9, policy_learns=False), step(-0.9, trained_tokens=0)
    assert heard(*[waits] * 5, *[idle] * 5, *[step(-0.3)] * 3, idle, step(-0.3)) == [15]
    assert heard(*[step(-0.3, critic=None)] * 9) == []
