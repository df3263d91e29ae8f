import argparse
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from rl_llm.cli import report as command
from rl_llm.errors import InputError
from rl_llm.report import html, pages, write_report

NUM_SCRIPTS = 2
METRICS_PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"


def page_of(folder):
    return write_report(folder).read_text(encoding="utf-8")


def visible(page):
    """The page's text without styles, scripts and tags, its blanks collapsed."""
    body = re.sub(r"<script>.*?</script>", "", page[page.index("<body>") :], flags=re.DOTALL)
    return " ".join(re.sub(r"<[^>]*>", " ", body).split())


@pytest.fixture
def with_text(make_run, rows, make_sample):
    """Write a run whose one sample holds a text in every field; return its page."""

    def write(text):
        folder = make_run(rows[:1])
        sample = make_sample(0, 3, 0)
        sample |= dict.fromkeys(("prompt", "answer", "text", "error", "source", "level"), text)
        sample |= {"key": text, "parts": {text: 1.0}, "finish_reason": text}
        (folder / "completions").mkdir()
        (folder / "completions" / "step-000000.jsonl").write_text(json.dumps(sample) + "\n")
        return page_of(folder)

    return write


def test_the_headline_says_before_after_errors_and_what_was_spent(make_run):
    rows = [
        {"step": 0, "eval/pass_rate": 0.25, "eval/pass_rate_se": 0.017, "time/eval_s": 8.0},
        {
            "step": 16,
            "step_s": 184.0,
            "eval/pass_rate": 0.75,
            "eval/pass_rate_se": 0.012,
            "rollout/completions": 4096,
            "rollout/tokens": 1_234_567,
            "train/informative_share": 0.5,
        },
    ]
    text = visible(page_of(make_run(rows)))
    assert "quickstart" in text
    assert "model data/models/tiny-arithmetic algorithm grpo" in text
    assert "25.0 ± 1.7 % → 75.0 ± 1.2 % +50.0 points step 0 to step 16" in text
    assert "training steps 16 of 16" in text
    assert "completions 4,096" in text
    assert "tokens 1.23 M" in text
    assert "wall time 3 min 12 s" in text
    assert "informative groups 50 %" in text


def test_the_headline_says_how_many_held_out_completions_could_not_be_scored(make_run):
    rows = [
        {
            "step": step,
            "eval/pass_rate": 0.25,
            "eval/completions": 24,
            "eval/completions_masked": num_masked,
        }
        for step, num_masked in ((0, 0), (16, 14))
    ]
    text = visible(page_of(make_run(rows)))
    assert "Step 16: 14 of 24 completions could not be scored" in text
    assert "Step 0:" not in text


def test_every_section_and_every_plot_appear_for_a_whole_run(whole_run):
    page = page_of(whole_run)
    headings = re.findall(r"<h2>([^<]*)</h2>", page)
    assert headings == [
        *("Held-out problems", "Curriculum", "Learning", "Cost", "Completions before and after"),
        *("Training completions of step 16", "All kept completions", "Recipe"),
    ]
    assert page.count("<svg ") == 22
    assert "Not drawn" not in page


def test_completions_stand_before_and_after_with_their_rewards(whole_run, make_sample):
    text = page_of(whole_run)
    before, after = make_sample(0, 4, 0), make_sample(16, 4, 0)
    assert (before["correct"], after["correct"]) == (False, True)
    card = next(part for part in text.split("<article") if before["key"][:8] in part)
    assert before["prompt"] in card
    first, second = re.findall(r'<div class="text"[^>]*>([^<]*)</div>', card)
    assert first == before["text"].replace("<", "&lt;").replace(">", "&gt;")
    assert second == after["text"].replace("<", "&lt;").replace(">", "&gt;")
    assert "step 0 ✗ not correct" in visible("<body>" + card)
    assert "reward 0.1 exact_answer 0 answer_tags 1 60 tokens" in visible("<body>" + card)
    assert "reward 1.1 exact_answer 1 answer_tags 1 60 tokens" in visible("<body>" + card)


def test_training_completions_show_advantage_and_belief(make_run, make_sample):
    folder = make_run([{"step": 4}])
    (folder / "completions").mkdir()
    sample = make_sample(4, 5, 0, split="train") | {"advantage": -1.125, "belief": 0.347}
    (folder / "completions" / "step-000004.jsonl").write_text(json.dumps(sample) + "\n")
    text = visible(page_of(folder))
    assert "Training completions of step 4" in text
    assert "advantage -1.12" in text
    assert "believed pass rate 34.7 %" in text


def test_the_resolved_recipe_is_there_with_its_comments(whole_run):
    page = page_of(whole_run)
    recipe = page[page.index("<pre>") : page.index("</pre>")]
    assert "# processes: 1" in recipe
    assert "name: grpo_d" in recipe


@pytest.mark.parametrize(
    "attack",
    ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "'onload='alert(1)"],
)
def test_text_of_a_run_is_escaped_everywhere(with_text, attack):
    page = with_text(attack)
    assert attack not in page
    assert page.count("<script") == page.count("<script>") == NUM_SCRIPTS
    assert "<img" not in page


def test_the_recipe_and_the_name_are_escaped(make_run):
    folder = make_run([{"step": 0}])
    (folder / "resolved.yaml").write_text("run: {name: '</title><script>x</script>'}\n")
    assert page_of(folder).count("<script") == NUM_SCRIPTS


def test_text_that_utf8_cannot_hold_is_still_written(with_text):
    assert "lone ? surrogate" in with_text("lone \ud800 surrogate")


def test_the_page_loads_nothing_from_elsewhere(whole_run):
    page = page_of(whole_run)
    links = re.findall(r"""(?:src|href)\s*=\s*["']?([^"'\s>]*)""", page)
    assert links
    assert all(link.startswith(("#", "data:")) for link in links)
    assert not re.search(r"url\((?!#)|@import|<script[^>]|<iframe|<link (?!rel=\"icon\")", page)
    assert "default-src 'none'" in page


def test_a_run_without_evaluation_reports_its_training(make_run, rows):
    training = [
        {key: value for key, value in row.items() if not key.startswith("eval/")}
        for row in rows[1:]
    ]
    text = visible(page_of(make_run(training)))
    assert "This run has no held-out evaluation." in text
    assert "Informative groups" in text
    assert "Held-out problems" not in text
    assert "has not written its metrics: Pass rate, Before and after, per level," in text


def test_a_run_without_a_critic_misses_none(make_run, rows):
    without = [
        {key: value for key, value in row.items() if not key.startswith("critic/")} for row in rows
    ]
    page = page_of(make_run(without))
    assert page.count("<svg ") == 21
    assert "Critic" not in visible(page) and "Not drawn" not in page


def test_a_run_with_one_evaluation_reports_it_alone(make_run, rows, make_sample):
    folder = make_run(rows[:1])
    (folder / "completions").mkdir()
    sample = make_sample(0, 3, 0)
    (folder / "completions" / "step-000000.jsonl").write_text(json.dumps(sample) + "\n")
    text = visible(page_of(folder))
    assert "step 0, the only evaluation so far" in text
    assert "Held-out completions" in text
    assert sample["prompt"] in text
    assert "→" not in text


def test_a_run_that_is_being_written_says_what_was_left_out(whole_run):
    with (whole_run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 17, "tr')
    assert "the last line of metrics.jsonl is cut off and left out" in visible(page_of(whole_run))


def test_a_failed_reward_is_no_wrong_answer(make_run, make_sample):
    folder = make_run([{"step": 0}])
    (folder / "completions").mkdir()
    sample = make_sample(0, 3, 0) | {"error": "timed out after 2 s", "correct": False}
    (folder / "completions" / "step-000000.jsonl").write_text(json.dumps(sample) + "\n")
    text = visible(page_of(folder))
    assert "reward failed" in text
    assert "timed out after 2 s" in text
    assert "✗ not correct" not in text


def test_the_middle_of_a_very_long_text_is_left_out_and_counted():
    text = "a" * 1500 + "b" * 2000 + "c" * 1500
    assert pages.excerpt(text) == ("a" * 1500 + "\n[… 2,000 characters left out …]\n" + "c" * 1500)
    assert pages.excerpt("short") == "short"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (9.94, "9.9 s"),
        (59.97, "60.0 s"),
        (192, "3 min 12 s"),
        (3600, "1 h 0 min"),
        (9000, "2 h 30 min"),
    ],
)
def test_durations_read_in_their_two_largest_units(seconds, text):
    assert html.duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"), [(950, "950"), (4096, "4,096"), (12_345, "12.3 k"), (2.5e6, "2.5 M")]
)
def test_counts_read_in_few_digits(count, text):
    assert html.compact(count) == text


def test_the_same_folder_gives_the_same_bytes_in_another_process(whole_run):
    here = write_report(whole_run).read_bytes()
    program = (
        "import sys, pathlib; from rl_llm.report import write_report; "
        "write_report(pathlib.Path(sys.argv[1]))"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    subprocess.run([sys.executable, "-c", program, whole_run], check=True, env=environment)
    assert (whole_run / "report.html").read_bytes() == here


def test_the_command_prints_the_path_of_what_it_wrote(whole_run, capsys):
    parser = argparse.ArgumentParser()
    command.configure(parser)
    assert command.run(parser.parse_args([str(whole_run)])) == 0
    assert capsys.readouterr().out == f"{whole_run / 'report.html'}\n"


def test_a_report_that_cannot_be_written_is_an_error_that_says_so(whole_run):
    (whole_run / "report.html").mkdir()
    with pytest.raises(InputError, match=r"cannot write .*report\.html"):
        write_report(whole_run)


def test_every_key_that_a_run_writes_is_documented(rows):
    documented = re.findall(r"^\| `([^`]+)` \|", METRICS_PAGE.read_text(), flags=re.MULTILINE)
    patterns = [re.sub(r"<\w+>", ".+", key) for key in documented]
    written = {key for row in rows for key in row}
    assert [key for key in written if not any(re.fullmatch(p, key) for p in patterns)] == []


# A copy of the page lets this script in, to say what the browser sees. The copies of the plots'
# images hold the load event back until each of them is decoded.
PROBE = """
  const images = [...document.querySelectorAll("svg image")].map(image => {
    const copy = new Image();
    copy.src = image.getAttribute("href");
    copy.style.display = "none";
    return document.body.appendChild(copy);
  });
  addEventListener("load", () => {
    const plots = [...document.querySelectorAll(".plot svg")];
    const flat = plots.filter(plot => plot.getBoundingClientRect().height < 100).length;
    const broken = images.filter(image => !image.naturalWidth).length;
    const wide = document.documentElement.scrollWidth > innerWidth;
    say(`images ${images.length} broken ${broken} plots ${plots.length} flat ${flat} wide ${wide}`);
  });
"""


@pytest.mark.slow
@pytest.mark.parametrize("width", [1200, 400])
def test_a_browser_decodes_every_image_and_draws_every_plot(whole_run, browser, width):
    seen = browser.ask(write_report(whole_run), PROBE, width=width)
    assert seen == "images 2 broken 0 plots 22 flat 0 wide false"


@pytest.mark.slow
def test_a_browser_has_nothing_to_say_on_its_console(whole_run, browser):
    dom, console = browser.load(write_report(whole_run))
    assert "<title>quickstart · rl-llm report</title>" in dom
    assert console == []
