"""The pictures of the benchmarks: what is drawn of which runs, and on which pages it hangs."""

import importlib
import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from rl_llm.algorithms import ALGORITHMS

ROOT = Path(__file__).parents[4]


@pytest.fixture(scope="module")
def scripts():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "scripts"))
        names = {"pictures": "parts.shared.pictures", "plots": "parts.algorithms.plots"}
        names["algorithms"] = "bench_algorithms"
        yield SimpleNamespace(**{k: importlib.import_module(v) for k, v in names.items()})


def row(arm, seed, *rates, critic=None):
    curve = {"step": [0, 8, 24], "pass_rate": list(rates)}
    if critic is not None:
        curve |= {"critic": critic, "prompt_mean": [0.5, 0.5, 0.4]}
    return {"arm": arm, "seed": seed, "curve": curve}


def page(folder, name, *markers):
    lines = [f"<!-- {marker}:begin -->\nold\n<!-- {marker}:end -->" for marker in markers]
    file = folder / name
    file.write_text("\n".join(["head", *lines, "tail"]), encoding="utf-8")
    return file


def test_a_picture_hangs_on_the_pages_with_its_markers_and_on_no_other(scripts, tmp_path):
    first, second = page(tmp_path, "a.md", "curves"), page(tmp_path, "b.md", "curves", "control")
    other = page(tmp_path, "c.md", "ratios")
    files = [tmp_path / "curves.png", tmp_path / "control.png"]
    assert scripts.pictures.hang(files, tmp_path) == [first, second, second]
    assert first.read_text() == (
        "head\n<!-- curves:begin -->\n![curves](benchmarks/curves.png)\n<!-- curves:end -->\ntail"
    )
    assert "old" not in second.read_text() and "(benchmarks/control.png)" in second.read_text()
    assert "old" in other.read_text() and "png" not in other.read_text()


def test_the_page_on_algorithms_has_a_place_for_each_picture(scripts, tmp_path):
    rows = [row("grpo", 0, 0.4, 0.5, 0.6), row("ppo", 0, 0.4, 0.5, 0.6, critic=[0.0, 0.2, 0.4])]
    files = scripts.plots.draw(rows, tmp_path)
    assert all(file.stat().st_size > 5_000 for file in files)
    text = (ROOT / "docs" / "algorithms.md").read_text(encoding="utf-8")
    for file in files:
        assert text.count(f"<!-- {file.stem}:begin -->") == 1
        assert text.count(f"<!-- {file.stem}:end -->") == 1


def test_a_summary_of_all_algorithms_hangs_its_pictures(scripts, tmp_path, monkeypatch):
    driver = scripts.algorithms
    document = page(tmp_path, "benchmarks.md", "algorithms")
    own = page(tmp_path, "algorithms.md", "algorithms-curves")
    monkeypatch.setattr(driver, "DOCUMENT", document)
    monkeypatch.setattr(driver, "RESULT", tmp_path / "algorithms.json")
    monkeypatch.setattr(driver, "check_settings", lambda *_: None)
    runs = tmp_path / "runs"
    runs.mkdir()
    run = {**row("grpo", 0, 0.4, 0.5, 0.9), "settings": "x", "completions": 9, "wall_s": 1.0}
    (runs / "grpo-0.json").write_text(json.dumps(run), encoding="utf-8")
    assert driver.main(["--table", "--runs", str(runs)]) == 0
    for text in (document.read_text(), own.read_text()):
        assert "![algorithms-curves](benchmarks/algorithms-curves.png)" in text
    assert (tmp_path / "algorithms-curves.png").is_file()


def test_without_a_critic_there_is_no_picture_of_one(scripts, tmp_path):
    (file,) = scripts.plots.draw([row("grpo", 0, 0.4, 0.5, 0.6)], tmp_path)
    assert file.stem == "algorithms-curves"


def test_a_curve_is_the_mean_over_seeds_and_its_band_their_range(scripts):
    rows = [row("grpo", 0, 0.4, 0.5, 0.6), row("grpo", 1, 0.4, 0.7, 0.9), row("ppo", 0, 0, 0, 0)]
    steps, mean, low, high = scripts.plots._over_seeds(rows, "grpo", "pass_rate")
    assert steps.tolist() == [0, 8, 24]
    assert mean.tolist() == pytest.approx([0.4, 0.6, 0.75])
    assert low.tolist() == [0.4, 0.5, 0.6] and high.tolist() == [0.4, 0.7, 0.9]


def test_the_colour_of_an_algorithm_is_that_of_its_baseline(scripts):
    built = {name: build() for name, build in ALGORITHMS.items()}
    expected = {
        "mean of the group": [name for name in built if built[name].has_group_baseline],
        "mean of the batch": ["reinforce", "reinforce_pp"],
        "critic": [name for name in built if built[name].critic is not None],
    }
    baselines = scripts.plots.BASELINES
    assert {name: list(arms) for name, (_, arms) in baselines.items()} == expected
    assert len({colour for colour, _ in baselines.values()}) == 3
