"""A word to the person at the run, where its critic does more harm than good."""

from rl_llm.policy import UpdateFacts

PATIENCE_STEPS = 4
"""So many steps in a row of negative explained variance are not the noise of one."""


class CriticHint:
    """Speaks once, when in `PATIENCE_STEPS` steps in a row that moved the policy the critic's
    values were further from their targets than one number for all would have been.

    Steps that trained nothing, and those in which the critic learns alone, count for nothing. A
    resumed run counts anew.
    """

    def __init__(self) -> None:
        """Start with nothing seen."""
        self._num_worse = 0
        self._has_spoken = False

    def __call__(self, facts: UpdateFacts) -> list[str]:
        """Take note of a step's updates, and return what is to be said."""
        if facts.critic is None or not facts.policy_learns or not facts.trained_tokens:
            return []
        explained = facts.critic.explained_variance
        self._num_worse = self._num_worse + 1 if explained < 0 else 0
        if self._has_spoken or self._num_worse < PATIENCE_STEPS:
            return []
        self._has_spoken = True
        return [
            f"the critic's explained variance has been below 0 for {PATIENCE_STEPS} steps (now "
            f"{explained:.2f}), so its advice is worse than none: raise "
            "algorithm.critic_warmup_steps, algorithm.critic_lr or optim.epochs, or set "
            "algorithm.lambda_policy to 1"
        ]
