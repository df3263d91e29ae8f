"""What is believed about the model's pass rate on every prompt.

Legend: N problems, K buckets. A *belief* is a Beta(a, b) distribution over a prompt's pass rate p;
its *strength* is a + b, counted in completions.
"""

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.special import logit

from rl_llm.curriculum.beta import (
    BetaBelief,
    Floats,
    SomeFloats,
    check_range,
    design_effect,
    informative_probability,
)
from rl_llm.curriculum.pool import Indices, Outcomes, PoolIndex, StateDict
from rl_llm.curriculum.shifts import Gain, Neighbours, Seen, find_shifts

__all__ = ["BetaBelief", "Floats", "PoolBelief", "check_range", "informative_probability"]

Singles = NDArray[np.float32]
Scalar = TypeVar("Scalar", bound=np.generic)

MOST_PRIOR_COMPLETIONS = 64.0  # What a bucket's prior is worth at most: a few steps overrule it.
_MOST_LOGIT = 10.0  # Keeps rates and their differences within what numbers can tell apart.


class PoolBelief:
    """A discounted Beta for every problem of a pool, shrunk to its bucket and moved along with it.

    With m the bucket's pass rate, kappa `prior_strength`, lambda `visit_decay` and age counted in
    visits of the problem, n counted completions being n / G of a visit:

        a = kappa m + sum lambda^age s,   b = kappa (1 - m) + sum lambda^age (n - s)

    The bucket's pass rate m is that of all its problems, drawn or not, although a sampler shows
    only those that it prefers: what moves m is how the drawn problems did *against what was
    believed of them*. With n_i completions of problem i in a round, believed at the rate e_i, and c
    the bucket's earlier completions, discounted by `bucket_decay` for each step that shows it, m
    moves by the number of logits d that solves

        sum n_i sigmoid(logit e_i + d) + (c + 1) sigmoid(logit m + d) = correct + (c + 1) m

    the maximum likelihood of a common shift, where earlier completions count as c + 1 more at the
    rate m. By `coupling` neighbouring levels move alike beyond that, so that those which nobody
    sees follow, and what is known of them is forgotten too. All shifts of a round are found
    together, see `find_shifts`. m starts at 1/2. Where nothing but m is known of the drawn problems
    (e_i = m), and nothing is coupled, this is the discounted mean
    (m (c + 1) + correct) / (n + c + 1).

    The model learns while a problem waits, so an old belief is too hard. Each problem therefore
    remembers its bucket's logit as of its last visit; the belief of that visit moves by the drift
    of that logit since, and keeps its strength. A problem that was learnt from at that visit has
    moved further: its belief moves by the gain g too, one number for the pool, see `Gain`.
    Evidence drifts by at most `max_drift` either way (at 0 the formula above holds as it stands),
    and is rebased in the same way at the next visit, before it is discounted: what stays is the
    strength of the whole belief. Evidence that is nearly all of one kind, in a bucket that moved
    the same way, is held at 0 where the prior alone says more than is believed, and by that much it
    gains: with kappa = 3, 0 of 8 and a drift of -2 logits, 8 wrong completions become 8.13. A
    problem that was never visited has the prior alone, and so has every problem of an endless
    bucket.

    Two things may be known beforehand. `set_priors` starts with evidence from elsewhere.
    `set_offsets` gives every problem a prior of its own: its odds are the bucket's times
    exp(offset), in place of m / (1 - m) above. Offsets say what a problem is, not what the model
    has learnt since: a change of theirs moves priors and no evidence.

    Memory: 13 bytes a problem beside the index.
    """

    def __init__(
        self,
        index: PoolIndex,
        *,
        group_size: int = 8,
        prior_strength: float = 3.0,
        visit_decay: float = 0.5,
        bucket_decay: float = 0.9,
        max_drift: float = 2.0,
        max_gain: float = 2.0,
        coupling: float = 10.0,
    ) -> None:
        """Start without evidence. `group_size` completions are a whole visit.

        Raises `ConfigError` for a parameter out of range.
        """
        check_range("prior_strength", prior_strength, above=0.0)
        check_range("visit_decay", visit_decay, least=0.0, most=1.0)
        check_range("bucket_decay", bucket_decay, least=0.0, most=1.0)
        check_range("max_drift", max_drift, least=0.0, most=10.0)
        check_range("max_gain", max_gain, least=0.0, most=10.0)
        check_range("coupling", coupling, least=0.0, most=1e6)
        self._index = index
        self._group_size = group_size
        self._prior_strength = prior_strength
        self._visit_decay = visit_decay
        self._bucket_decay = bucket_decay
        self._max_drift = max_drift
        self._correct_N = np.zeros(index.num_problems, np.float32)
        self._wrong_N = np.zeros(index.num_problems, np.float32)
        self._visit_logit_N = np.zeros(index.num_problems, np.float32)
        self._learnt_N = np.zeros(index.num_problems, np.bool_)
        self._gain = Gain(most=max_gain)
        self._neighbours = Neighbours(index, coupling=coupling)
        self._logit_K = np.zeros(index.num_buckets)
        self._counted_K = np.zeros(index.num_buckets)
        self._step_K = np.full(index.num_buckets, -1, np.int64)
        self._z_N: Singles | None = None
        self._slope_K = np.zeros(index.num_buckets, np.float32)
        self._refresh_odds()

    @property
    def prior_strength(self) -> float:
        """Kappa: the completions that the bucket's pass rate is worth beside a problem's own."""
        return self._prior_strength

    @property
    def bucket_logits(self) -> Floats:
        """The logit (K) of every bucket's believed pass rate; 0 until seen. Read only."""
        return self._logit_K

    def bucket_rates(self) -> Floats:
        """Return the believed pass rate of every bucket (K), strictly between 0 and 1."""
        odds_K = np.exp(self._logit_K)
        rates: Floats = odds_K / (1.0 + odds_K)
        return rates

    def bucket_beta(self) -> BetaBelief:
        """Return the belief (K) about the pass rate of every bucket; Beta(1/2, 1/2) until seen,
        whatever its neighbours say.

        The completions of a group share their problem, so they count for fewer than they are: by
        the `design_effect` of a whole group.
        """
        rates_K = np.where(self._counted_K > 0, self.bucket_rates(), 0.5)
        effect = design_effect(self._prior_strength, self._group_size)
        strength_K = self._counted_K / effect + 1.0
        return BetaBelief(strength_K * rates_K, strength_K * (1.0 - rates_K))

    def set_priors(self, correct_N: SomeFloats, wrong_N: SomeFloats) -> None:
        """Start with evidence from elsewhere: so many correct and wrong completions of every
        problem, 0 and 0 where nothing is known. Only before anything was observed.

        They are a problem's own evidence as from a visit now. A bucket starts as after as many
        completions as its problems have together, at most `MOST_PRIOR_COMPLETIONS`, at the mean of
        their pass rates.
        """
        assert not self._counted_K.any(), "priors come before anything is observed"
        ids_N = self._index.bucket_ids
        counted_N = np.asarray(correct_N, np.float64) + wrong_N
        known = np.flatnonzero(counted_N > 0)
        ids, counted, num_K = ids_N[known], counted_N[known], self._index.num_buckets
        known_K = np.bincount(ids, minlength=num_K)
        sum_K = np.bincount(ids, correct_N[known] / counted, minlength=num_K)
        total_K = np.bincount(ids, counted, minlength=num_K)
        self._counted_K[:] = np.minimum(total_K, MOST_PRIOR_COMPLETIONS)
        correct_K = self._counted_K * sum_K / np.maximum(known_K, 1)
        self._logit_K[:] = logit((correct_K + 0.5) / (self._counted_K + 1.0))
        self._refresh_odds()
        own = known[~self._index.endless_K[ids]]
        self._correct_N[own] = correct_N[own]
        self._wrong_N[own] = wrong_N[own]
        self._visit_logit_N[own] = self._logit_K[self._index.bucket_ids[own]]

    def set_offsets(self, z_N: Singles, slope_K: Floats) -> None:
        """Take what every problem's prior has over its bucket's from now on: z_N times its bucket's
        slope, in logits, held within -10 and 10; `z_N`, which is not copied, is 0 on average over a
        bucket, so that the bucket's rate stays its problems'.

        It costs nothing a problem until beliefs are asked for. Not part of the state: whoever found
        the slopes sets them again after a restart.
        """
        self._z_N = z_N
        self._slope_K = slope_K.astype(np.float32)

    def beta(self, where: Indices | slice) -> BetaBelief:
        """Return today's beliefs about the problems at `where`, in float32; cheapest where they are
        consecutive, and some 16,000 at a time."""
        where = _as_slice(where)
        correct, wrong = _select(self._correct_N, where), _select(self._wrong_N, where)
        prior_odds = self._bucket_odds(where)
        drift_odds = np.exp(-_select(self._visit_logit_N, where))
        drift_odds *= prior_odds
        self._apply_offsets(prior_odds, where)
        most = np.float32(np.exp(self._max_drift))
        np.clip(drift_odds, np.float32(1.0) / most, most, out=drift_odds)
        # The prior's odds at the visit were prior / drift. Below, a and b are those of the visit
        # but for a factor that a has over b since, and a common one that keeps their sum.
        unit = self._prior_strength / (prior_odds + drift_odds)
        prior_odds *= unit
        a = prior_odds
        a += correct
        a *= drift_odds
        if self._gain.logits:
            a[_select(self._learnt_N, where)] *= self._gain.odds
        b = unit
        b *= drift_odds
        b += wrong
        scale = correct + wrong
        scale += self._prior_strength
        scale /= a + b
        a *= scale
        b *= scale
        return BetaBelief(a, b)

    def own_counts(self, where: Indices | slice) -> tuple[Singles, Singles]:
        """Return the correct and the wrong completions that a problem's own evidence is worth
        today, discounted and moved with its bucket: a and b without the prior. Where one of these
        is below 0 it is 0 here, and the two are then worth more than the evidence was.

        Of a problem without evidence they are 0 but for rounding; `has_evidence_N` tells.
        """
        believed = self.beta(where)
        odds = self._bucket_odds(where)
        self._apply_offsets(odds, where)
        correct = np.maximum(believed.a - self._prior_strength * odds / (1.0 + odds), 0.0)
        wrong = np.maximum(believed.b - self._prior_strength / (1.0 + odds), 0.0)
        return correct, wrong

    @property
    def has_evidence_N(self) -> NDArray[np.bool_]:
        """Whether a problem (N) has evidence of its own, from visits or from `set_priors`."""
        return self.has_evidence(slice(None))

    def has_evidence(self, where: Indices | slice) -> NDArray[np.bool_]:
        """Return `has_evidence_N` of the problems at `where`."""
        correct, wrong = _select(self._correct_N, where), _select(self._wrong_N, where)
        known: NDArray[np.bool_] = (correct > 0) | (wrong > 0)
        return known

    def prior_offset(self, position: int) -> float:
        """Return what a problem's prior has over its bucket's, in logits; 0 without offsets."""
        return (
            0.0 if self._z_N is None else float(self._offsets(self._z_N, np.array([position]))[0])
        )

    def _bucket_odds(self, where: Indices | slice) -> Singles:
        """Return m / (1 - m) for the bucket of each problem at `where`, in an array of its own."""
        return self._odds_K.take(_select(self._index.bucket_ids, where))

    def _apply_offsets(self, odds: Singles, where: Indices | slice) -> None:
        """Turn the odds of buckets into those of their problems' priors, in place."""
        if self._z_N is not None:
            offsets = self._offsets(self._z_N, where)
            odds *= np.exp(offsets, out=offsets)

    def _offsets(self, z_N: Singles, where: Indices | slice) -> Singles:
        """Return what the priors at `where` have over those of their buckets, in logits."""
        offsets = self._slope_K.take(_select(self._index.bucket_ids, where))
        offsets *= _select(z_N, where)
        return np.clip(offsets, -_MOST_LOGIT, _MOST_LOGIT, out=offsets)

    def _refresh_odds(self) -> None:
        """Keep the bounds and the odds of the buckets in step with their logits."""
        np.clip(self._logit_K, -_MOST_LOGIT, _MOST_LOGIT, out=self._logit_K)
        self._odds_K = np.exp(self._logit_K).astype(np.float32)

    def observe(self, outcomes: Outcomes) -> None:
        """Learn from one round; problems without a counted completion are left as they were."""
        outcomes = outcomes.where(outcomes.num_counted > 0)
        self._observe_buckets(outcomes)
        own = outcomes.where(~self._index.endless_K[self._index.bucket_ids[outcomes.indices]])
        where = own.indices
        old_correct, old_wrong = self.own_counts(where)
        self._visit_logit_N[where] = np.log(self._bucket_odds(where))
        self._learnt_N[where] = False
        kept = self._visit_decay ** (own.num_counted / self._group_size)
        self._correct_N[where] = kept * old_correct + own.num_correct
        self._wrong_N[where] = kept * old_wrong + own.num_counted - own.num_correct

    def _observe_buckets(self, outcomes: Outcomes) -> None:
        """Move the buckets of a round by what surprised; those that this step shows for the first
        time are discounted before. An evaluation may be of a step before those generated ahead."""
        bucket_ids = self._index.bucket_ids[outcomes.indices]
        num_K = self._index.num_buckets
        counted_K: Floats = np.bincount(bucket_ids, outcomes.num_counted, num_K).astype(np.float64)
        believed = self.beta(outcomes.indices)
        logits = np.log(np.asarray(believed.a, np.float64)) - np.log(np.asarray(believed.b))
        self._forget(counted_K > 0, outcomes.step)
        # What is known of a bucket weighs like one completion more than were counted, at its rate.
        counted = self._counted_K + 1.0
        learnt = self._learnt_N[outcomes.indices]
        if learnt.any():
            self._gain.begin(outcomes.step)
        found = find_shifts(
            Seen(logits=logits, counted=outcomes.num_counted, correct=outcomes.num_correct),
            bucket_ids.astype(np.int64),
            learnt,
            known=Seen(
                logits=self._logit_K, counted=counted, correct=counted * self.bucket_rates()
            ),
            neighbours=self._neighbours,
            gain=self._gain,
        )
        self._logit_K += found.bucket_K
        self._gain.learn(found)
        self._counted_K += counted_K
        self._refresh_odds()

    def _forget(self, shown_K: NDArray[np.bool_], step: int) -> None:
        """Discount what is known of buckets that a step shows for the first time; of buckets with
        neighbours also while they wait, by as much as the mean of those."""
        waits_K = self._step_K < step
        new_K, coupled_K = shown_K & waits_K, self._neighbours.coupled_K
        if coupled_K.any():
            age = float(new_K[coupled_K].mean())
            self._counted_K[waits_K & ~shown_K & coupled_K] *= self._bucket_decay**age
        self._counted_K[new_K] *= self._bucket_decay
        self._step_K[new_K] = step

    def learn_from(self, where: Indices) -> None:
        """The policy learns from what was last observed of the problems at `where`, a mixed group
        each; their beliefs have the gain until their next outcome."""
        if self._gain.most:
            self._learnt_N[where] = ~self._index.endless_K[self._index.bucket_ids[where]]

    @property
    def gain(self) -> float:
        """By how many logits a problem is believed to rise by being learnt from; 0 at first."""
        return self._gain.logits

    def state_dict(self) -> StateDict:
        """Return copies of all evidence, buckets by name."""
        facts_K = zip(
            self._logit_K.tolist(), self._counted_K.tolist(), self._step_K.tolist(), strict=True
        )
        return {
            "columns": {
                "belief_correct": self._correct_N.copy(),
                "belief_wrong": self._wrong_N.copy(),
                "belief_visit_logit": self._visit_logit_N.copy(),
                "belief_learnt": self._learnt_N.copy(),
                "belief_bucket_logit": np.where(
                    self.has_evidence_N, self._logits_N(), np.float32(0)
                ),
            },
            "rest": {
                "buckets": dict(zip(self._index.bucket_names, facts_K, strict=True)),
                "gain": self._gain.state(),
            },
        }

    def load_state_dict(self, state: StateDict) -> None:
        """Take over the evidence. Buckets and problems that the state does not know stay as they
        are, with their priors."""
        columns = {name: np.asarray(column) for name, column in state["columns"].items()}
        was_seen_N = (columns["belief_correct"] > 0) | (columns["belief_wrong"] > 0)
        for name, own_N in (
            ("belief_correct", self._correct_N),
            ("belief_wrong", self._wrong_N),
            ("belief_visit_logit", self._visit_logit_N),
        ):
            own_N[:] = np.where(was_seen_N, columns[name], own_N)
        if "gain" in state["rest"]:  # Earlier versions save none.
            if self._gain.most:
                self._learnt_N[:] = np.where(was_seen_N, columns["belief_learnt"], self._learnt_N)
            self._gain.take(state["rest"]["gain"])
        for position, name in enumerate(self._index.bucket_names):
            as_is = (self._logit_K[position], self._counted_K[position], -1)
            facts = state["rest"]["buckets"].get(name, as_is)
            self._logit_K[position], self._counted_K[position], self._step_K[position] = facts
        if "belief_bucket_logit" in columns:  # Earlier versions save none.
            # Problems that are of another bucket now keep the drift that they had in theirs: what
            # the two differ by is not what the model has learnt.
            apart_N = self._logits_N() - columns["belief_bucket_logit"]
            self._visit_logit_N[was_seen_N] += apart_N[was_seen_N]
        self._refresh_odds()

    def _logits_N(self) -> Singles:
        """Return the logit (N) of every problem's bucket."""
        return self._logit_K.astype(np.float32).take(self._index.bucket_ids)


def _select(values: NDArray[Scalar], where: Indices | slice) -> NDArray[Scalar]:
    return values[where] if isinstance(where, slice) else values.take(where)


def _as_slice(where: Indices | slice) -> Indices | slice:
    """Return consecutive positions as a slice, which is read in place instead of copied."""
    if isinstance(where, slice) or not len(where):
        return where
    first, last = int(where[0]), int(where[-1])
    consecutive = last - first == len(where) - 1 and bool((where[1:] - where[:-1] == 1).all())
    return slice(first, last + 1) if consecutive else where
