import argparse
import re

import pytest

from rl_llm.cli import report as command
from rl_llm.errors import InputError
from rl_llm.report import write_pair
from rl_llm.report.compare import settings_apart


def test_settings_that_differ_are_told_by_their_paths():
    first = {
        "run": {"name": "a", "output_dir": "runs", "seed": 0},
        "lora": {"rank": 16},
        "kl": {"controller": {"name": "target", "target": 0.1}},
        "rewards": [{"use": "exact_answer"}],
    }
    second = {
        "run": {"name": "b", "output_dir": "other", "seed": 0},
        "lora": {"rank": 32},
        "kl": {"controller": {"name": "constant"}},
        "rewards": [{"use": "exact_answer"}],
        "hub": None,
    }
    assert settings_apart(first, second) == {
        "lora.rank": ("16", "32"),
        "kl.controller.name": ("'target'", "'constant'"),
        "kl.controller.target": ("0.1", "nothing"),
    }


@pytest.fixture
def two_runs(make_run):
    """Two runs: one ends at 50 %, the other, of which nothing else is known, at 75 %."""
    rows = [
        {"step": 0, "eval/pass_rate": 0.25},
        {
            "step": 8,
            "eval/pass_rate": 0.5,
            "eval/pass_rate_se": 0.02,
            "rollout/completions": 2048,
            "train/reward_mean": 0.5,
        },
    ]
    first = make_run(rows, name="one")
    second = make_run([rows[0], {"step": 4, "eval/pass_rate": 0.75}], name="two")
    (second / "resolved.yaml").write_text("run: {name: '<i>other</i>'}\nlora: {rank: 32}\n")
    return first, second


def test_a_value_differs_from_a_section_that_holds_nothing():
    assert settings_apart({"x": 5}, {"x": {"low": None}}) == {"x": ("5", "nothing")}
    assert settings_apart({"x": None}, {"x": {"low": None}}) == {}
    assert settings_apart({"x": 5}, {"x": {"low": 1}}) == {"x.low": ("nothing", "1")}


def test_the_page_holds_both_headlines_the_curves_and_the_differences(two_runs):
    path = write_pair(*two_runs)
    assert path == two_runs[0] / "report-and-two.html"
    page = path.read_text(encoding="utf-8")
    text = " ".join(re.sub(r"<[^>]*>", " ", page[page.index("<header>") :]).split())
    assert "quickstart and &lt;i&gt;other&lt;/i&gt;" in text
    assert "held-out pass rate 25.0 → 50.0 ± 2.0 % 25.0 → 75.0 % training steps 8 4" in text
    assert "completions 2,048 -" in text
    assert "lora.rank 16 32" in text
    assert "<i>other" not in page
    # What neither run wrote is not drawn.
    assert re.findall(r"<figure[^>]*><h3>(.*?)</h3>", page) == [
        *("Held-out pass rate", "Pass rate for completions spent", "Rewards"),
    ]


def test_runs_of_one_name_are_told_apart_by_their_folders(make_run):
    first, second = (make_run([{"step": 1, "kl/beta": 0.1}], name=name) for name in "ab")
    page = write_pair(first, second).read_text(encoding="utf-8")
    assert f"{first} <span" in page and "None but their names and folders." in page


def test_names_that_a_legend_would_cut_to_the_same_are_counted(make_run):
    runs = [make_run([{"step": 1, "kl/beta": 0.1}], name=name) for name in "ab"]
    for number, folder in enumerate(runs):
        (folder / "resolved.yaml").write_text(f"run: {{name: {'x' * 60}{number}}}\n")
    page = write_pair(*runs).read_text(encoding="utf-8")
    assert {"first run", "second run"} <= set(re.findall(r"<text[^>]*>([^<]*)</text>", page))


def test_the_command_takes_a_second_run_and_prints_where_the_page_is(two_runs, capsys):
    parser = argparse.ArgumentParser()
    command.configure(parser)
    assert command.run(parser.parse_args([str(folder) for folder in two_runs])) == 0
    assert capsys.readouterr().out == f"{two_runs[0] / 'report-and-two.html'}\n"


def test_a_second_folder_that_is_no_run_is_refused(two_runs, tmp_path):
    with pytest.raises(InputError, match=r"resolved\.yaml and metrics\.jsonl missing"):
        write_pair(two_runs[0], tmp_path)
