"""A learner whose true pass rates are known, for tests of what the curriculum believes and draws.

Legend: N problems, K buckets.
"""

import numpy as np

from rl_llm.curriculum import Outcomes, PoolIndex
from rl_llm.seeds import derive_rng


class SimulatedLearner:
    """Problems in K buckets of one source, each with a logit; answering is a coin flip, and
    training on mixed groups raises the logits of their bucket.

    A group with pass rate p raises its bucket by `learning_rate` p(1-p), and the buckets one level
    easier and harder by `neighbour_share` of that: a group with equal answers teaches nothing.
    Within a bucket, logits start normally distributed around `bucket_logits` with standard
    deviation `spread`.
    """

    def __init__(
        self,
        *,
        bucket_logits,
        problems_per_bucket=100,
        spread=1.0,
        group_size=8,
        learning_rate=0.05,
        neighbour_share=0.3,
        seed=0,
    ):
        self._seed = seed
        self._group_size = group_size
        self._learning_rate = learning_rate
        self._neighbour_share = neighbour_share
        num_K = len(bucket_logits)
        ids = np.repeat(np.arange(num_K, dtype=np.int32), problems_per_bucket)
        self.index = PoolIndex(
            bucket_ids=ids,
            bucket_names=tuple(f"s/level={level}" for level in range(num_K)),
            bucket_sources=("s",) * num_K,
            bucket_levels=tuple(range(num_K)),
            endless_K=np.zeros(num_K, np.bool_),
        )
        noise_N = derive_rng(seed, "simulated problems").standard_normal(len(ids))
        self._logits_N = np.asarray(bucket_logits, np.float64)[ids] + spread * noise_N

    @property
    def rates_N(self):
        """The true pass rate of every problem."""
        return 1.0 / (1.0 + np.exp(-self._logits_N))

    @property
    def rates_K(self):
        """The true mean pass rate of every bucket."""
        return self.mean_K(self.rates_N)

    def mean_K(self, values_N):
        """Return the mean of what is given for every problem, in each bucket."""
        ids = self.index.bucket_ids
        return np.bincount(ids, values_N) / np.bincount(ids)

    def informative_N(self):
        """Return the true probability of every problem's group to be mixed."""
        rates_N = self.rates_N
        return 1.0 - rates_N**self._group_size - (1.0 - rates_N) ** self._group_size

    def answer(self, indices, *, step):
        """Return a group of answers to each problem; at the same step, the same answers."""
        draws_NG = derive_rng(self._seed, "simulated answers", step).random(
            (self.index.num_problems, self._group_size)
        )
        correct_N = (draws_NG < self.rates_N[:, None]).sum(axis=1)
        return Outcomes(
            indices=indices,
            num_correct=correct_N[indices],
            num_counted=np.full(len(indices), self._group_size),
            step=step,
        )

    def learn(self, outcomes):
        """Raise the logits by what the groups teach."""
        rates = outcomes.num_correct / outcomes.num_counted
        ids = self.index.bucket_ids[outcomes.indices]
        own_K = np.bincount(ids, rates * (1.0 - rates), minlength=self.index.num_buckets)
        gain_K = own_K.copy()
        gain_K[1:] += self._neighbour_share * own_K[:-1]
        gain_K[:-1] += self._neighbour_share * own_K[1:]
        self._logits_N += self._learning_rate * gain_K[self.index.bucket_ids]

    def shift(self, bucket_id, logits):
        """Make a bucket easier, or harder where `logits` is negative, at once."""
        self._logits_N[self.index.bucket_ids == bucket_id] += logits


def expected_calibration_error(predicted_N, true_N):
    """Return the mean distance of predicted and true pass rates over 10 bins of predictions."""
    bins = np.minimum((10 * predicted_N).astype(np.int64), 9)
    return np.abs(np.bincount(bins, predicted_N - true_N)).sum() / len(predicted_N)


def simulate(learner, sampler, belief, *, num_steps, num_problems=32, after_step=None):
    """Run a learner under a sampler; return the share of mixed groups of each step.

    `after_step(step, indices)` is called when belief, sampler and learner have learnt.
    """
    informative_shares = []
    for step in range(num_steps):
        indices = sampler.plan(step, num_problems)
        outcomes = learner.answer(indices, step=step)
        mixed = (outcomes.num_correct > 0) & (outcomes.num_correct < outcomes.num_counted)
        informative_shares.append(mixed.mean())
        belief.observe(outcomes)
        belief.learn_from(indices[mixed])
        sampler.observe(outcomes)
        learner.learn(outcomes)
        if after_step is not None:
            after_step(step, indices)
    return np.array(informative_shares)
