"""The difficulty-aware dataloader: beliefs -> which prompts, and which of their groups are kept.

Legend: N problems of the training pool, named by their position in it.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import repeat, starmap
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rl_llm.curriculum.belief import BetaBelief, PoolBelief, informative_probability
from rl_llm.curriculum.calibration import NUM_BINS, Calibration
from rl_llm.curriculum.difficulty import DifficultySlopes
from rl_llm.curriculum.draw_record import Draw, Why
from rl_llm.curriculum.gates import Gate, admits
from rl_llm.curriculum.planner import Fact, Planner, Stateful
from rl_llm.curriculum.pool import Indices, Outcomes, PoolIndex, StateDict
from rl_llm.curriculum.probe import Call, Concluded, ProbeThenFinish, WaitingGroups
from rl_llm.curriculum.quotas import apportion
from rl_llm.curriculum.regression import RegressionDetector
from rl_llm.curriculum.spread import gini, rate_spread
from rl_llm.curriculum.supply import Supply
from rl_llm.records import Problem, Request, Sampling, ScoredGroup
from rl_llm.seeds import derive_seed


@dataclass(frozen=True, kw_only=True)
class StepShape:
    """What a step asks for: so many problems, so many completions of each, and refills."""

    num_problems: int
    group_size: int
    sampling: Sampling
    max_refill_rounds: int
    refill_within_bucket: bool
    last_step: int
    seed: int


class Scheduler:
    """Plans the requests of a step, learns from the scored groups, keeps those that teach, and
    replaces the others within bounds.

    Given the same groups it decides the same on every rank. What `admit` returned is the caller's
    to keep over the rounds of a refill.
    """

    def __init__(
        self,
        *,
        supply: Supply,
        index: PoolIndex,
        belief: PoolBelief,
        slopes: DifficultySlopes | None,
        planner: Planner,
        gates: Sequence[Gate],
        probing: ProbeThenFinish | None,
        shape: StepShape,
    ) -> None:
        """Schedule `shape.num_problems` of the pool a step; `probing` None generates whole
        groups."""
        self._supply = supply
        self._index = index
        self._belief = belief
        self._slopes = slopes
        self._planner = planner
        self._gates = tuple(gates)
        self._probing = probing
        self._shape = shape
        self._detector = RegressionDetector(index)
        self._calibration = Calibration()
        self._visits_N = np.zeros(index.num_problems, np.uint16)
        self._num_regressions = 0
        self._has_told_spares = False
        self._messages: list[str] = []
        self._draws = planner.begin(0)
        self._round = 0
        self._dropped: Counter[int] = Counter()
        self._barren: set[int] = set()  # Buckets of which a refill of this step brought nothing.
        self._position_of: dict[str, int] = {}  # Of all that the step may show.

    @property
    def row_names(self) -> list[str]:
        """What `store` names the rows of the pool by, in its order."""
        return self._supply.row_names

    @property
    def index(self) -> PoolIndex:
        """The shape of the pool."""
        return self._index

    @property
    def problems(self) -> Sequence[Problem]:
        """The pool; endless positions hold the problem that they show next."""
        return self._supply.problems

    @property
    def visits_N(self) -> NDArray[np.uint16]:
        """How often what stands at every position was scored: of an endless source, problem upon
        problem."""
        return self._visits_N

    @property
    def belief(self) -> PoolBelief:
        """What is believed of the pool, to read."""
        return self._belief

    def beliefs(self) -> BetaBelief:
        """Return the beliefs (N) about all problems."""
        return self._belief.beta(slice(None))

    def plan(self, step: int) -> list[Request]:
        """Return the first requests of a step; fewer than `num_problems` when the pool is smaller
        than that, and with probes as many as `ProbeThenFinish` says."""
        self._draws = self._planner.begin(step)
        self._round = 0
        self._dropped.clear()
        self._barren.clear()
        self._position_of.clear()
        if self._probing is None:
            requests = self._requests(self._draws.first(self._shape.num_problems))
            self._tell_spares()
            return requests
        self._probing.begin_step(is_last=step >= self._shape.last_step)
        held_keys = self._probing.held_keys
        held = self._supply.positions_of(held_keys)
        self._draws.withhold(held)
        self._position_of |= zip(held_keys, held.tolist(), strict=True)
        return self._probe_requests(self._probing, self._probing.next_call())

    def refill(self, step: int, *, round: int, num_missing: int) -> list[Request]:
        """Return `num_missing` requests for problems that this step has not drawn yet.

        `round` counts from 1. They come from the buckets of the groups that the gates dropped, in
        their proportions where fewer are missing, or, if so set, from the whole pool; so do those
        for a bucket of which a refill of this step has brought nothing. The list is empty when
        nothing is missing, when `round` is past the bound, and when the step has drawn the whole
        pool. With probes, it holds what finishes a step that has finished nothing.
        """
        assert step == self._draws.step, "refill belongs to the step that was planned last"
        self._round = round
        if self._probing is not None:
            return self._probe_requests(self._probing, self._probing.next_call())
        if num_missing <= 0 or round > self._shape.max_refill_rounds:
            return []
        wanted: dict[int, Fraction] = {}
        if self._shape.refill_within_bucket:
            wanted = {k: Fraction(n) for k, n in self._dropped.items() if k not in self._barren}
        self._dropped.clear()
        num_within = min(num_missing, int(sum(wanted.values())))
        chosen = self._draws.in_buckets(apportion(wanted, num_within))
        rest = self._draws.anywhere(num_missing - len(chosen))
        return self._requests(np.concatenate([chosen, rest]))

    def _probe_requests(self, probing: ProbeThenFinish, call: Call) -> list[Request]:
        rest = [
            self._request(problem, probing.num_rest, purpose="finish") for problem in call.finishing
        ]
        draw = self._draws.anywhere if self._round else self._draws.first
        probes = self._requests(draw(call.num_probes), probing.num_init)
        self._tell_spares()
        return rest + probes

    def _tell_spares(self) -> None:
        """Say, once, that the pool is nearly used up."""
        if not self._has_told_spares and (num_spares := self._draws.count("spare")):
            self._has_told_spares = True
            self.say(
                f"step {self._draws.step} draws {num_spares} problems that rest, retired or "
                "deferred, for too few others are left: the pool is nearly used up; "
                "curriculum/spare_groups counts them"
            )

    def _requests(self, chosen: Indices, num_completions: int | None = None) -> list[Request]:
        size = num_completions or self._shape.group_size
        problems = [self._supply.problems[position] for position in chosen.tolist()]
        keys = (problem.key for problem in problems)
        self._position_of |= zip(keys, chosen.tolist(), strict=True)
        return [self._request(problem, size, purpose="rollout") for problem in problems]

    def _request(self, problem: Problem, num_completions: int, *, purpose: str) -> Request:
        return Request(
            problem=problem,
            num_completions=num_completions,
            sampling=self._shape.sampling,
            stream_key=derive_seed(
                self._shape.seed, purpose, self._draws.step, self._round, problem.key
            ),
        )

    def observe(self, scored: Sequence[ScoredGroup], *, step: int) -> list[Draw]:
        """Let beliefs learn from every group of a round, those that gates will drop too; return why
        each was drawn, and what was believed of it before.

        Only `correct` counts. A completion whose reward failed counts in neither the correct ones
        nor the size of its group.
        """
        keys = _keys(scored)
        outcomes = _outcomes(scored, self._positions(keys), step)
        before = self._belief.beta(outcomes.indices)
        informative = self._informative(before, scored)
        self._calibration.observe(np.asarray(before.mean), informative, outcomes)
        regressions = self._detector.observe(outcomes, before)
        self._learn(outcomes)
        for found in regressions:
            self._planner.standing.alarm([found.bucket_id], step)
            self._messages.append(found.message)
        self._num_regressions += len(regressions)
        facts = zip(
            keys,
            np.asarray(before.a).tolist(),
            np.asarray(before.b).tolist(),
            informative.tolist(),
            self._reasons(keys, outcomes.indices),
            repeat(self._round),
            strict=False,  # The last one has no end.
        )
        return list(starmap(Draw, facts))

    def _learn(self, outcomes: Outcomes) -> None:
        """Let beliefs learn, and from them how a stated difficulty tells on the pass rate."""
        first = outcomes.where(~self._belief.has_evidence(outcomes.indices))
        self._belief.observe(outcomes)
        if self._slopes is not None:
            self._slopes.observe(first, bucket_logits_K=self._belief.bucket_logits)
            self._belief.set_offsets(self._slopes.z_N, self._slopes.slope_K)

    def observe_evaluation(self, scored: Sequence[ScoredGroup], *, step: int) -> None:
        """Let beliefs, and nothing else, learn from training problems that were evaluated."""
        positions = self._supply.first_positions_of(_keys(scored))
        self._learn(_outcomes(scored, positions, step))

    def _informative(self, belief: BetaBelief, scored: Sequence[ScoredGroup]) -> NDArray[Any]:
        """Return the probability of every group to be mixed, at the size that it has."""
        sizes = np.array([len(group.scores) for group in scored], np.int64)
        found = np.zeros(len(sizes))
        a, b = np.asarray(belief.a), np.asarray(belief.b)
        for size in np.unique(sizes).tolist():
            where = sizes == size
            found[where] = informative_probability(a[where], b[where], group_size=size)
        return found

    def _positions(self, keys: Sequence[str]) -> Indices:
        """Return where the problems of a round stand."""
        return np.fromiter(map(self._position_of.__getitem__, keys), np.int64, len(keys))

    def _reasons(self, keys: Sequence[str], positions: Indices) -> Iterable[Why]:
        """Say why each problem of a round was asked for."""
        reasons = map(self._draws.reason, positions.tolist())
        if self._probing is None:
            return reasons
        finishing_keys = self._probing.finishing_keys
        return [
            "finish" if key in finishing_keys else "probe" if reason == "sampler" else reason
            for key, reason in zip(keys, reasons, strict=True)
        ]

    def conclude(self, scored: Sequence[ScoredGroup]) -> Concluded:
        """Tell the groups that are learnt from, those that every gate lets through, from those that
        are dropped; both in their order. Observe a round before it is concluded."""
        ended = Concluded(finished=tuple(scored), dropped=())
        if self._probing is not None:
            ended = self._probing.take(scored)
        admitted: list[ScoredGroup] = []
        dropped = list(ended.dropped)
        for group in ended.finished:
            for gate in self._gates:
                if not admits(gate, group):
                    dropped.append(group)
                    break
            else:
                admitted.append(group)
        concluded = [*admitted, *dropped]
        positions = self._positions(_keys(concluded))
        bucket_ids = self._index.bucket_ids[positions].tolist()
        self._dropped.update(bucket_ids[len(admitted) :])
        if self._round > 0:
            self._barren |= {*bucket_ids[len(admitted) :]} - {*bucket_ids[: len(admitted)]}
        outcomes = _outcomes(concluded, positions, self._draws.step)
        mixed = (outcomes.num_correct > 0) & (outcomes.num_correct < outcomes.num_counted)
        self._belief.learn_from(positions[: len(admitted)][mixed[: len(admitted)]])
        self._planner.observe(outcomes)
        visited = outcomes.indices[outcomes.num_counted > 0]
        most = np.iinfo(self._visits_N.dtype).max
        self._visits_N[visited] += self._visits_N[visited] < most
        if self._supply.is_endless:
            held = set() if self._probing is None else set(self._probing.held_keys)
            shown = [key for key in _keys(scored) if key not in held]
            self._supply.replace(self._positions(shown))
        return Concluded(finished=tuple(admitted), dropped=tuple(dropped))

    def say(self, message: str) -> None:
        """Add to what a person should know."""
        self._messages.append(message)

    def take_messages(self) -> list[str]:
        """Return what a person should know of the last rounds, each once."""
        messages, self._messages = self._messages, []
        return messages

    def explain(self, key: str, *, step: int) -> list[Fact]:
        """Say, sentence by sentence, how a problem stands before `step` is planned."""
        position, probing = self._supply.position_of(key), self._probing
        if probing is None:
            return self._planner.explain(position, step=step, num_drawn=self._shape.num_problems)
        held = self._supply.positions_of(probing.held_keys)
        facts = self._planner.explain(position, step=step, num_drawn=probing.num_probes, held=held)
        status = probing.status(key)
        return facts if status is None else [*facts, Fact("its probe", status)]

    def metrics(self, step: int) -> dict[str, Any]:
        """Return the keys `curriculum/*` after a step; docs/metrics.md explains each."""
        rates = rate_spread(self._belief, self._index.num_problems, num_bins=NUM_BINS)
        return {
            "curriculum/visited_share": float(np.mean(self._visits_N > 0)),
            "curriculum/visits_gini": gini(self._visits_N),
            "curriculum/belief_mean": rates.mean,
            "curriculum/belief_histogram": rates.histogram,
            "curriculum/gain_logits": self._belief.gain,
            "curriculum/review_groups": self._draws.count("review"),
            "curriculum/spare_groups": self._draws.count("spare"),
            "curriculum/regressions": self._num_regressions,
            **self._planner.metrics(step),
            **self._calibration.metrics(),
            **({} if self._probing is None else self._probing.metrics()),
        }

    def _stateful(self) -> dict[str, Stateful]:
        """Return the parts that remember something, by the name of their columns, in the order in
        which they are loaded."""
        probing = self._probing
        return {
            "belief": self._belief,
            "calibration": self._calibration,
            "detector": self._detector,
            "supply": self._supply,
            **self._planner.stateful(),
            **({} if self._slopes is None else {"difficulty": self._slopes}),
            **({} if probing is None else {"probing": WaitingGroups(probing, self._supply)}),
        }

    def state_dict(self) -> StateDict:
        """Return everything that the plans of later steps depend on."""
        columns: dict[str, NDArray[Any]] = {"visits": self._visits_N.copy()}
        rest: dict[str, Any] = {"num_regressions": self._num_regressions}
        for name, part in self._stateful().items():
            state = part.state_dict()
            columns |= {f"{name}.{column}": array for column, array in state["columns"].items()}
            rest[name] = state["rest"]
        return {"columns": columns, "rest": rest}

    def load_state_dict(self, state: StateDict) -> None:
        """Take over what `state_dict` returned; the next call must be `plan`.

        A part that the state does not know, because the data has changed since, starts anew. What
        there was to say of a start is dropped.
        """
        self._messages.clear()
        self._visits_N[:] = state["columns"]["visits"]
        self._num_regressions = state["rest"]["num_regressions"]
        for name, part in self._stateful().items():
            if name not in state["rest"]:
                continue
            columns = {
                column.removeprefix(f"{name}."): array
                for column, array in state["columns"].items()
                if column.startswith(f"{name}.")
            }
            part.load_state_dict({"columns": columns, "rest": state["rest"][name]})
        if self._slopes is not None:
            self._belief.set_offsets(self._slopes.z_N, self._slopes.slope_K)
        self._draws = self._planner.begin(0)


def _keys(scored: Sequence[ScoredGroup]) -> list[str]:
    return [group.group.problem.key for group in scored]


def _outcomes(scored: Sequence[ScoredGroup], positions: Indices, step: int) -> Outcomes:
    """Count the completions of groups whose reward did not fail, and the correct ones."""
    marks = [[score.correct for score in group.scores if score.error is None] for group in scored]
    return Outcomes(
        indices=positions,
        num_correct=np.fromiter(map(sum, marks), np.int64, len(marks)),
        num_counted=np.fromiter(map(len, marks), np.int64, len(marks)),
        step=step,
    )
