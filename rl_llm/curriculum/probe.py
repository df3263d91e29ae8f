"""Probe-then-finish: a few completions first, the rest of a group only where those were mixed.

SPEED, arXiv:2506.09016. What a step probes, a later one finishes, in the engine call that also
holds the next probes. A finished group therefore holds completions of two policy versions, each
with its own logprobs.
"""

from collections.abc import Iterable, Set
from dataclasses import dataclass

from rl_llm.curriculum.gates import counted_scores, is_mixed
from rl_llm.curriculum.group_json import from_json, to_json
from rl_llm.curriculum.pool import StateDict
from rl_llm.curriculum.supply import Supply
from rl_llm.records import Group, Problem, ScoredGroup


@dataclass(frozen=True, kw_only=True)
class Call:
    """What one engine call asks for: the rest of the groups of `finishing`, and `num_probes` probes
    of problems that the sampler chooses. Both are nothing when the step is over."""

    finishing: tuple[Problem, ...]
    num_probes: int


@dataclass(frozen=True, kw_only=True)
class Concluded:
    """The groups that ended with a call: `finished` ones are whole, for the gates to judge;
    `dropped` ones are probes that were not mixed."""

    finished: tuple[ScoredGroup, ...]
    dropped: tuple[ScoredGroup, ...] = ()


def most_completions(*, num_init: int, num_rest: int, max_finished: int, num_probes: int) -> int:
    """Return how many completions all calls of one step of `ProbeThenFinish` with these arguments
    ask for at most, whatever comes out mixed.

    A step that finishes nothing in its first call probes in both. Before a last step, up to
    `max_finished - 1` groups that were left waiting may stand beside as many new probes.
    """
    num_finished = min(max_finished, num_probes)
    num_left = max_finished - 1 if num_probes > max_finished else 0
    probing, whole = num_probes * num_init, num_probes * (num_init + num_rest)
    last_call = (num_left + num_probes) * num_rest
    return max(2 * probing + num_finished * num_rest, last_call, whole)


class ProbeThenFinish:
    """Holds the probed groups that wait for the rest of their completions, oldest first.

    A call finishes up to `max_finished` of them, and draws `num_probes` probes unless as many as
    `max_finished` are left waiting. A step that would finish nothing makes a second call, which
    finishes what its first has probed. The last step of a run finishes all that wait, however many,
    and probes only if it would have nothing to finish: no mixed probe is ever lost. Problems that
    are held must not be drawn: not by the sampler, nor as a review, nor as a spare.

    How the scheduler drives it:

    - `plan(step)`: `begin_step(is_last=step >= last_step)`; take the problems of `held_keys` as
      drawn in this step; then the requests of round 0.
    - the requests of a round: `next_call()`. First the requests of `finishing`, in that order, with
      `num_rest` completions and a stream key of a purpose of their own; then `num_probes` draws
      with `num_init` completions.
    - `observe(scored)`: as without probes. Every completion is in exactly one scored group, so
      beliefs learn from probes when those are scored, and from the rest when that is.
    - `conclude(scored)`: `take(scored)`; the gates admit from `finished` alone.
    - `refill(step, round)`: the requests of that round, whatever is missing.
    - `state_dict` and `load_state_dict` between steps, the latter with the problems that stand in
      the pool after all else was loaded.
    """

    def __init__(self, *, num_init: int, num_rest: int, max_finished: int, num_probes: int) -> None:
        """`num_init` completions a probe, `num_rest` more to finish its group; both at least 1."""
        self.num_init = num_init
        self.num_rest = num_rest
        self._max_finished = max_finished
        self.num_probes = num_probes
        self._waiting: dict[str, ScoredGroup] = {}
        self._finishing: dict[str, ScoredGroup] = {}
        self._begin(is_last=False)

    @property
    def held_keys(self) -> list[str]:
        """The keys of the problems whose groups are not whole yet, oldest first."""
        return [*self._finishing, *self._waiting]

    @property
    def finishing_keys(self) -> Set[str]:
        """The keys of the problems whose groups the call in progress finishes."""
        return self._finishing.keys()

    def begin_step(self, *, is_last: bool) -> None:
        """Start a step; after the last one nothing would finish its probes."""
        assert not self._finishing, "a step begins when the groups of the one before have come"
        self._begin(is_last=is_last)

    def _begin(self, *, is_last: bool) -> None:
        self._is_last = is_last
        self._num_calls = 0
        self._num_finished = 0

    def next_call(self) -> Call:
        """Return what to ask for next in this step, after all that was asked for has come."""
        assert not self._finishing, "the groups of the call before come first"
        is_first, has_finished = self._num_calls == 0, self._num_finished > 0
        is_over = not is_first and (has_finished or not self._waiting)
        self._num_calls += 1
        if is_over:
            return Call(finishing=(), num_probes=0)
        count = len(self._waiting) if self._is_last else self._max_finished
        for key in list(self._waiting)[:count]:
            self._finishing[key] = self._waiting.pop(key)
        may_probe = (
            not self._finishing if self._is_last else len(self._waiting) < self._max_finished
        )
        return Call(
            finishing=tuple(group.group.problem for group in self._finishing.values()),
            num_probes=self.num_probes if may_probe else 0,
        )

    def take(self, scored: Iterable[ScoredGroup]) -> Concluded:
        """Put the rest behind its probe, keep new probes that are mixed, and return what ended, in
        the order given."""
        finished, dropped = [], []
        for group in scored:
            key = group.group.problem.key
            probe = self._finishing.pop(key, None)
            if probe is not None:
                finished.append(_merged(probe, group))
            elif is_mixed(group):
                assert key not in self._waiting, "a problem that waits is not probed again"
                self._waiting[key] = group
            else:
                dropped.append(group)
        self._num_finished += len(finished)
        return Concluded(finished=tuple(finished), dropped=tuple(dropped))

    def status(self, key: str) -> str | None:
        """Say of a held group how its probe came out and when it is finished; None if it is not
        held. Between steps."""
        if key not in self._waiting:
            return None
        counted = counted_scores(self._waiting[key])
        place = list(self._waiting).index(key) + 1
        return (
            f"{sum(score.correct for score in counted)} of {len(counted)} completions correct, so "
            f"{self.num_rest} more follow: number {place} of {len(self._waiting)} that wait, of "
            f"which a step finishes {self._max_finished}, and the last step all"
        )

    def metrics(self) -> dict[str, float]:
        """Return `curriculum/probes_waiting`: mixed probes that the next steps finish."""
        return {"curriculum/probes_waiting": float(len(self._waiting))}

    def state_dict(self) -> StateDict:
        """Return the groups that wait; between steps nothing else is remembered."""
        assert not self._finishing, "a state is saved between steps"
        return {"columns": {}, "rest": {"waiting": [to_json(g) for g in self._waiting.values()]}}

    def load_state_dict(self, state: StateDict, problems: Iterable[Problem]) -> None:
        """Take over what `state_dict` returned; groups of problems that the pool no longer holds
        are left out."""
        saved = {each["key"]: each for each in state["rest"]["waiting"]}
        known = {problem.key: problem for problem in problems if problem.key in saved}
        self._finishing = {}
        self._waiting = {
            key: from_json(each, known[key]) for key, each in saved.items() if key in known
        }


def _merged(probe: ScoredGroup, rest: ScoredGroup) -> ScoredGroup:
    """Return one group of both, the probe's completions first."""
    first, second = probe.group, rest.group
    assert first.prompt_ids == second.prompt_ids, "one problem has one prompt"
    completions = first.completions + second.completions
    return ScoredGroup(
        group=Group(problem=second.problem, prompt_ids=second.prompt_ids, completions=completions),
        scores=probe.scores + rest.scores,
    )


@dataclass(frozen=True)
class WaitingGroups:
    """The groups that wait to be finished, as part of a state: their problems are those of the
    pool, which is loaded before."""

    probing: ProbeThenFinish
    supply: Supply

    def state_dict(self) -> StateDict:
        """Return the groups that wait."""
        return self.probing.state_dict()

    def load_state_dict(self, state: StateDict) -> None:
        """Take over what `state_dict` returned."""
        self.probing.load_state_dict(state, self.supply.problems)
