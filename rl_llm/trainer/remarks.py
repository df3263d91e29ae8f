"""What a person at the run should know of a step beside its numbers."""

from collections.abc import Iterator, Mapping
from typing import Any

from rl_llm.algorithms import Algorithm
from rl_llm.config import Recipe
from rl_llm.curriculum import Solved, dry_message, solved_of
from rl_llm.curriculum.gates import counted_scores
from rl_llm.policy import UpdateFacts
from rl_llm.trainer.critic_hint import CriticHint
from rl_llm.trainer.generation import Harvest
from rl_llm.trainer.mismatch_alarm import MismatchAlarm


class Remarks:
    """Says each thing where it is first seen; a resumed run says it anew."""

    def __init__(self, recipe: Recipe, algorithm: Algorithm) -> None:
        """Start with nothing seen."""
        self._recipe = recipe
        self._critic_rules = algorithm.critic
        self._critic_hint = CriticHint()
        self._mismatch_alarm = MismatchAlarm(recipe.rollout.mismatch_alarm_nats)
        self._said_short = False
        self.was_dry = False
        """Whether the last harvest had nothing to learn from."""
        self._before: Solved | None = None

    def of_start(self, row: Mapping[str, Any]) -> Iterator[str]:
        """Yield what is to be said of the row from before the first step."""
        threshold, pass_rate = self._recipe.eval.stop_when, row.get("eval/pass_rate")
        if threshold is not None and pass_rate is not None and pass_rate >= threshold:
            yield (
                f"the held-out pass rate of {pass_rate:.3f} reaches eval.stop_when={threshold:g} "
                "before the first step; the run ends behind the first evaluation after a step that "
                "reaches it too"
            )

    def of_dry(self, harvest: Harvest) -> str:
        """Return what is to be said of a harvest without anything to learn from."""
        return dry_message(
            harvest.scored,
            when_dry=self._recipe.curriculum.refill.when_dry,
            is_again=self.was_dry,
            before=self._before,
            correct_at={
                use.use.rpartition(":")[2]: use.correct_at
                for use in self._recipe.rewards
                if use.channel == "correctness"
            },
        )

    def of_harvest(self, harvest: Harvest) -> list[str]:
        """Return what is to be said of responses that are too short for the critic's lambda."""
        self.was_dry = not harvest.admitted
        self._before = solved_of(harvest.scored)
        rules = self._critic_rules
        lengths = [len(c.token_ids) for group in harvest.scored for c in group.group.completions]
        if rules is None or not lengths or self._said_short:
            return []
        mean = sum(lengths) / len(lengths)
        if mean >= rules.warn_below_tokens:
            return []
        self._said_short = True
        return [
            f"algorithm.length_adaptive: responses of {mean:.0f} tokens on average get a lambda of "
            f"{max(0.0, 1 - 20 / mean):.2f}; it is made for {rules.warn_below_tokens} or more: use "
            "algorithm.lambda_policy instead"
        ]

    def of_update(self, harvest: Harvest, facts: UpdateFacts, *, step: int) -> Iterator[str]:
        """Yield what is to be said of a step's updates."""
        if facts.reference_refreshed:
            yield f"reference refreshed: KL is to the policy of step {step} from now on"
        if facts.num_skipped:
            yield self._skipped(facts.num_skipped)
        elif harvest.admitted and facts.trained_tokens == 0:
            yield _nothing_learnt(harvest)
        yield from self._critic_hint(facts)
        recipe = self._recipe
        yield from self._mismatch_alarm(
            facts, dtype=recipe.model.dtype, engine=recipe.rollout.engine
        )

    def _skipped(self, count: int) -> str:
        """Say that a step's updates were left out, and what may have made them so."""
        what = "an update was left out: its" if count == 1 else f"{count} updates were left out: a"
        return (
            f"{what} loss or gradient is not finite (algorithm {self._recipe.algorithm.name!r}); "
            "look for infinite rewards, and at the advantages and the loss of an algorithm of your "
            "own; else lower optim.lr, or kl's coefficient"
        )


def _nothing_learnt(harvest: Harvest) -> str:
    """Say why a step whose groups passed the gates has trained on no token."""
    num_groups = len(harvest.admitted)
    totals = [{score.total for score in counted_scores(group)} for group in harvest.admitted]
    if all(len(values) <= 1 for values in totals):
        return (
            f"nothing learnt: in each of the {num_groups} groups that the gates admitted all "
            "completions have the same reward, so none has an advantage; add a reward that tells "
            "them apart, or look at why they are alike"
        )
    return (
        f"nothing learnt: the {num_groups} groups that the gates admitted have no advantage, or no "
        "completion that is trained on; look at curriculum.gates, and at truncated completions"
    )
