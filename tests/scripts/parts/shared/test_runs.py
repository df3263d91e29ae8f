"""What the benchmarks of many runs share: intervals over seeds, results on disk, and goings-on."""

import importlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from rl_llm.config import load_recipe
from rl_llm.errors import InputError, RunError

SCRIPTS = Path(__file__).parents[4] / "scripts"


@pytest.fixture(scope="module")
def shared():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SCRIPTS))
        names = ("runs", "docs", "stats")
        yield SimpleNamespace(
            **{name: importlib.import_module(f"parts.shared.{name}") for name in names}
        )


@dataclass(frozen=True)
class Spec:
    seed: int
    settings: str = "x"

    def file(self, runs):
        return runs / f"{self.seed}.json"


def keep(runs, seed, settings):
    (runs / f"{seed}.json").write_text(json.dumps({"settings": settings}))


def test_runs_that_are_there_are_not_made_again(shared, tmp_path):
    keep(tmp_path, 1, "x")
    specs = [Spec(0), Spec(1), Spec(2)]
    assert shared.runs.missing_runs(specs, tmp_path, fresh=False) == [Spec(0), Spec(2)]


def test_runs_of_other_settings_are_refused_and_with_fresh_made_again_in_their_order(
    shared, tmp_path
):
    keep(tmp_path, 1, "other")
    specs = [Spec(0), Spec(1), Spec(2)]
    with pytest.raises(InputError, match=r"holds 1 runs of other settings, the first .*1\.json"):
        shared.runs.missing_runs(specs, tmp_path, fresh=False)
    assert shared.runs.missing_runs(specs, tmp_path, fresh=True) == specs


@pytest.mark.parametrize(("error", "code"), [(InputError("bad"), 2), (RunError("died"), 1)])
def test_an_error_is_a_line_and_a_code(shared, capsys, error, code):
    def work():
        raise error

    assert shared.runs.exit_code(work) == code
    assert capsys.readouterr().err == f"error: {error}\n"


def test_a_paired_difference_is_the_mean_over_seeds_that_both_arms_have(shared):
    # Seeds 0 and 1: .7 - .4 and .9 - .8, so .2 +- 12.7062 (Student's t of one degree of freedom)
    # times .1, the standard error.
    rows = [{"arm": "a", "seed": seed, "rate": rate} for seed, rate in enumerate([0.7, 0.9, 0.0])]
    rows += [
        {"arm": "b", "seed": seed, "rate": rate} for seed, rate in [(0, 0.4), (1, 0.8), (5, 1)]
    ]
    found = shared.stats.paired_difference(rows, "a", "b", "rate")
    assert found == {"pairs": 2, "difference": 0.2, "ci_low": -1.0706, "ci_high": 1.4706}
    assert shared.stats.paired_difference(rows, "a", "c", "rate") is None


def test_one_seed_has_no_interval(shared):
    found = shared.stats.estimate(np.array([[0.5]]), lambda means: means[..., 0], shown_as=np.exp)
    assert found == (1.6487, None, None)


def test_the_interval_of_a_ratio_of_means_is_that_of_the_jackknife(shared):
    # Sums 6 and 3: a ratio of 2. Without each seed in turn: 5/2, 4/2, 3/2; their variance is 1/6,
    # the standard error sqrt(2 / 6), and t of two degrees of freedom 4.3027.
    values_SM = np.array([[1.0, 1.0], [2.0, 1.0], [3.0, 1.0]])
    found = shared.stats.estimate(values_SM, lambda means: means[..., 0] / means[..., 1])
    assert found == pytest.approx(
        (2.0, 2 - 4.3027 * (1 / 3) ** 0.5, 2 + 4.3027 * (1 / 3) ** 0.5), abs=1e-4
    )


def test_a_digest_tells_what_is_set_and_no_more(shared):
    recipe = SCRIPTS.parent / "recipes" / "quickstart.yaml"
    plain = shared.runs.digest(load_recipe(recipe), 1)
    assert plain == shared.runs.digest(load_recipe(recipe), 1)
    assert plain != shared.runs.digest(load_recipe(recipe), 2)
    assert plain != shared.runs.digest(load_recipe(recipe, ["optim.lr=0.5"]), 1)
    # What a recipe leaves out is not in it, so a key that is new with a default changes nothing.
    assert "spike" not in load_recipe(recipe).model_dump(exclude_unset=True)["kl"]
    assert "spike" in load_recipe(recipe).model_dump()["kl"]


def test_a_commit_is_that_of_the_checkout(shared, monkeypatch, tmp_path):
    assert re.fullmatch(r"([0-9a-f]{12,40})(-dirty)?", shared.runs.commit())
    monkeypatch.setattr(shared.runs, "ROOT", tmp_path)
    assert shared.runs.commit() == "unknown"


def test_what_a_run_ends_at_is_its_last_fifth(shared):
    curve = {"step": [0, 40, 80, 81, 100], "rate": [0.0, 0.1, 0.9, 0.4, 0.6]}
    assert shared.stats.last_mean(curve, "rate", along="step", end=100) == pytest.approx(0.5)


def test_the_standard_error_of_one_value_is_given_as_zero(shared):
    assert shared.stats.standard_error([0.3]) == 0.0
    assert shared.stats.standard_error([1.0, 3.0]) == 1.0  # sqrt(2) / sqrt(2)


def test_a_result_keeps_what_is_not_replaced_and_its_rows_one_a_line(shared, tmp_path):
    file = tmp_path / "new" / "result.json"
    shared.docs.merge_result(file, {"old": 1, "both": 1, "rows": [{"a": 1}]})
    tree = shared.docs.merge_result(file, {"both": 2, "rows": [{"a": 2}, {"a": 3}]})
    assert tree == {"old": 1, "both": 2, "rows": [{"a": 2}, {"a": 3}]}
    assert shared.docs.read_result(file) == tree
    assert '  {"a": 2},\n  {"a": 3}\n' in file.read_text()


def test_a_table_has_a_rule_as_wide_as_its_head(shared):
    assert shared.docs.table(["a | b", "1 | 2"]) == "| a | b |\n| --- | --- |\n| 1 | 2 |"
