"""Whether what is believed of problems comes true: forecasts of a round against its outcomes.

Legend: N drawn problems of a round, B bins of the predicted pass rate.
"""

from typing import Any

import numpy as np

from rl_llm.curriculum.belief import Floats, check_range
from rl_llm.curriculum.pool import Outcomes, StateDict

NUM_BINS = 10


class Calibration:
    """Scores of the beliefs as forecasts, over a window of steps that fades.

    What a step adds is weighted by `window_decay` for every later step that adds something. With p
    the pass rate that was believed of a problem before s of its n completions turned out correct,
    the squared error of a completion is (1 - p)^2 or p^2, so a group adds s (1 - p)^2 + (n - s) p^2
    over n completions.

    Beliefs are judged as forecasts of a chance: the best Brier score that anybody can have is the
    mean of p (1 - p) over the true pass rates, not 0.
    """

    def __init__(self, *, window_decay: float = 0.95) -> None:
        """Start with an empty window; raises `ConfigError` for a decay outside [0, 1]."""
        check_range("window_decay", window_decay, least=0.0, most=1.0)
        self._window_decay = window_decay
        self._step = -1
        self._squared_error = 0.0
        self._groups = 0.0
        self._mixed_squared_error = 0.0
        self._completions_B = np.zeros(NUM_BINS)
        self._predicted_B = np.zeros(NUM_BINS)
        self._correct_B = np.zeros(NUM_BINS)

    def observe(self, predicted: Floats, predicted_mixed: Floats, outcomes: Outcomes) -> None:
        """Compare a round with what was predicted of its problems before anything learnt from it.

        `predicted` (N) are pass rates, `predicted_mixed` (N) probabilities of a group with both a
        correct and a wrong completion; both stand in the order of `outcomes`. Groups without a
        counted completion are left out.
        """
        kept_N = outcomes.num_counted > 0
        if not kept_N.any():
            return
        self._fade(outcomes.step)
        rate_N = np.asarray(predicted, np.float64)[kept_N]
        mixed_N = np.asarray(predicted_mixed, np.float64)[kept_N]
        correct_N, counted_N = outcomes.num_correct[kept_N], outcomes.num_counted[kept_N]
        wrong_N = counted_N - correct_N
        squared_N = correct_N * (1.0 - rate_N) ** 2 + wrong_N * rate_N**2
        self._squared_error += float(squared_N.sum())
        is_mixed_N = (correct_N > 0) & (wrong_N > 0)
        self._groups += float(len(rate_N))
        self._mixed_squared_error += float(((is_mixed_N - mixed_N) ** 2).sum())
        bin_N = np.minimum((rate_N * NUM_BINS).astype(np.int64), NUM_BINS - 1)
        self._completions_B += np.bincount(bin_N, counted_N, NUM_BINS)
        self._predicted_B += np.bincount(bin_N, counted_N * rate_N, NUM_BINS)
        self._correct_B += np.bincount(bin_N, correct_N, NUM_BINS)

    def _fade(self, step: int) -> None:
        """Discount the window, once for each step."""
        if step == self._step:
            return
        self._step = step
        decay = self._window_decay
        self._squared_error *= decay
        self._groups *= decay
        self._mixed_squared_error *= decay
        for sums_B in (self._completions_B, self._predicted_B, self._correct_B):
            sums_B *= decay

    def metrics(self) -> dict[str, Any]:
        """Return the scores, none before the first observation.

        - `curriculum/brier`: mean squared error of the predicted pass rate over completions.
        - `curriculum/brier_skill`: 1 - brier / (m (1 - m)), m the observed pass rate: above 0 where
          beliefs say more than that mean alone. Absent while m is 0 or 1.
        - `curriculum/calibration_error`: |mean predicted - mean observed| of each bin of the
          predicted pass rate, weighted by completions.
        - `curriculum/informative_brier`: mean squared error of the predicted probability of a mixed
          group, over groups.
        - `curriculum/calibration_bins`: for each bin [completions, mean predicted, mean observed];
          three zeros for an empty one.
        """
        completions = float(self._completions_B.sum())
        if not completions:
            return {}
        mean = float(self._correct_B.sum()) / completions
        brier, brier_of_mean = self._squared_error / completions, mean * (1.0 - mean)
        gap = float(np.abs(self._predicted_B - self._correct_B).sum())
        return {
            "curriculum/brier": brier,
            **({"curriculum/brier_skill": 1.0 - brier / brier_of_mean} if brier_of_mean else {}),
            "curriculum/calibration_error": gap / completions,
            "curriculum/informative_brier": self._mixed_squared_error / self._groups,
            "curriculum/calibration_bins": self._bins(),
        }

    def _bins(self) -> list[list[float]]:
        filled_B = np.where(self._completions_B > 0, self._completions_B, 1.0)
        rows = (self._completions_B, self._predicted_B / filled_B, self._correct_B / filled_B)
        bins: list[list[float]] = np.stack(rows, axis=1).tolist()
        return bins

    def state_dict(self) -> StateDict:
        """Return the window; nothing in it belongs to a single problem."""
        return {
            "columns": {},
            "rest": {
                "step": self._step,
                "squared_error": self._squared_error,
                "groups": self._groups,
                "mixed_squared_error": self._mixed_squared_error,
                "completions": self._completions_B.tolist(),
                "predicted": self._predicted_B.tolist(),
                "correct": self._correct_B.tolist(),
            },
        }

    def load_state_dict(self, state: StateDict) -> None:
        """Take over the window."""
        rest = state["rest"]
        self._step = rest["step"]
        self._squared_error = rest["squared_error"]
        self._groups = rest["groups"]
        self._mixed_squared_error = rest["mixed_squared_error"]
        self._completions_B[:] = rest["completions"]
        self._predicted_B[:] = rest["predicted"]
        self._correct_B[:] = rest["correct"]
