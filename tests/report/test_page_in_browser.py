"""What the page's scripts do, in a real browser. `say` ends a script with what it saw."""

import json
import re

import pytest

from rl_llm.report import write_pair, write_report

pytestmark = pytest.mark.slow

# Moves the pointer over a plot, to a share of the width between its ends.
HOVER = """
  const plots = Object.fromEntries([...document.querySelectorAll("figure.card")].map(
    card => [card.querySelector("h3").textContent, card.querySelector("svg")]));
  const readout = document.querySelector(".readout");
  const lines = () => [...readout.children].map(line => [...line.children].length
    ? [...line.children].map(part => part.textContent).filter(Boolean).join(" ")
    : line.textContent).join(" | ");
  const hover = (svg, step) => {
    const panel = JSON.parse(svg.dataset.plot).panels[0];
    const share = (step - panel.xlim[0]) / (panel.xlim[1] - panel.xlim[0]);
    const box = svg.getBoundingClientRect();
    const [left, , right] = panel.box;
    svg.dispatchEvent(new PointerEvent("pointermove", {
      bubbles: true, pointerType: "mouse", clientY: box.top + box.height / 2,
      clientX: box.left + box.width * (left + share * (right - left)),
    }));
  };
"""
ROWS = """
  const form = document.querySelector(".finder");
  const shown = () => [...document.querySelectorAll(".row")].filter(row => row.checkVisibility());
  const set = (name, value) => {
    form.elements[name].value = value;
    form.elements[name].dispatchEvent(new Event("input", { bubbles: true }));
  };
"""


@pytest.fixture
def two_rates(make_run):
    """Steps 1 to 9, a pass rate of step / 10, and KL that is evaluated in every third step."""
    rows = [
        {
            "step": n,
            "train/pass_rate": n / 10,
            "train/completion_tokens_mean": 1000.0 + n,
            **({"eval/completion_tokens_mean": 40.5 + n} if n % 3 == 0 else {}),
        }
        for n in range(1, 10)
    ]
    return write_report(make_run(rows))


@pytest.fixture
def with_samples(make_run, make_sample):
    """Write a page whose samples are the given changes of one; return its path."""

    def write(*changes):
        folder = make_run([{"step": 4}])
        (folder / "completions").mkdir()
        rows = [make_sample(4, 3, 0) | change for change in changes]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / "completions" / "step-000004.jsonl").write_text(text, encoding="utf-8")
        return write_report(folder)

    return write


def test_the_readout_shows_the_values_of_the_step_under_the_pointer(two_rates, browser):
    script = HOVER + "hover(plots['Informative groups'], 7.2); say(lines());"
    seen = browser.ask(two_rates, script)
    assert seen == "step 7 | share | pass rate of scheduled prompts 70.0 %"


def test_a_series_without_that_step_shows_its_last_value_and_says_of_which_step(two_rates, browser):
    script = HOVER + "hover(plots['Completion length'], 8); say(lines());"
    seen = browser.ask(two_rates, script)
    assert seen == "step 8 | tokens / completion | training 1,008 | held-out 46.5 step 6"


def test_the_readout_goes_when_the_pointer_leaves(two_rates, browser):
    script = """
      const svg = plots["Informative groups"];
      hover(svg, 3);
      const before = readout.hidden;
      svg.dispatchEvent(new PointerEvent("pointerleave", { pointerType: "mouse" }));
      say(`${before} ${readout.hidden} ${svg.querySelectorAll(".cursor").length}`);
    """
    assert browser.ask(two_rates, HOVER + script) == "false true 0"


def test_a_tap_shows_the_values_until_another_place_is_touched(two_rates, browser):
    script = """
      const svg = plots["Informative groups"];
      const box = svg.getBoundingClientRect();
      const touch = (target, kind) => target.dispatchEvent(new PointerEvent(kind, {
        bubbles: true, pointerType: "touch", clientX: box.left + box.width / 2, clientY: box.top,
      }));
      touch(svg, "pointerdown");
      touch(svg, "pointerleave");
      const first = readout.hidden;
      touch(document.querySelector("h1"), "pointerdown");
      say([first, readout.hidden]);
    """
    assert browser.ask(two_rates, HOVER + script) == "false,true"


def test_arrow_keys_move_from_step_to_step(two_rates, browser):
    script = """
      const svg = plots["Informative groups"];
      const press = key => {
        svg.dispatchEvent(new KeyboardEvent("keydown", { key }));
        return readout.hidden ? "gone" : lines().split(" | ")[0];
      };
      svg.focus();
      say([..."ArrowLeft ArrowLeft Home ArrowRight End Escape".split(" ").map(press)]);
    """
    assert browser.ask(two_rates, HOVER + script) == "step 8,step 7,step 1,step 2,step 9,gone"


def test_the_mark_lies_on_the_line(two_rates, browser):
    """The path of step 1 to 9 and the mark of step 5, both in the coordinates of the SVG."""
    script = """
      const svg = plots["Informative groups"];
      hover(svg, 5);
      const dot = svg.querySelector(".dot");
      const paths = [...svg.querySelectorAll("path")].map(path => path.getAttribute("d"));
      say(JSON.stringify([Number(dot.getAttribute("cx")), Number(dot.getAttribute("cy")), paths]));
    """
    x, y, paths = json.loads(browser.ask(two_rates, HOVER + script))
    points = [re.findall(r"[ML] (\S+) (\S+)", path) for path in paths]
    rising = next(line for line in points if len(line) > 1 and line[0][1] != line[-1][1])
    (left, low), (right, high) = ([float(number) for number in rising[at]] for at in (0, -1))
    assert [x, y] == pytest.approx([(left + right) / 2, (low + high) / 2], abs=0.1)


def test_a_check_box_hides_its_level_and_takes_it_out_of_the_readout(whole_run, browser):
    script = """
      const svg = plots["Pass rate per level"];
      const parts = () => [...svg.querySelectorAll("[data-trace]")].filter(
        part => part.getClientRects().length).length;
      const all = parts();
      const boxes = [...svg.closest("figure").querySelectorAll("input")];
      boxes[2].click();
      hover(svg, 8);
      say([boxes.length, all - parts(), lines().includes("level 2 "), lines().includes("level 3 "),
           lines().includes("level 4 ")]);
    """
    assert browser.ask(write_report(whole_run), HOVER + script) == "8,3,true,false,true"


def test_the_search_finds_a_text_and_hides_the_others(with_samples, browser):
    page = with_samples({"text": "One Walrus"}, {"prompt": "a walrus?"}, {"text": "no such animal"})
    script = (
        "set('text', 'WALRUS'); say([shown().length, form.querySelector('output').textContent]);"
    )
    assert browser.ask(page, ROWS + script) == "2,2 of 3 shown"


def test_rows_are_filtered_by_level_and_by_outcome(with_samples, browser):
    page = with_samples(
        {"level": 1, "correct": True, "text": "a"},
        {"level": 2, "correct": True, "text": "b"},
        {"level": 2, "correct": False, "text": "c"},
        {"level": 2, "error": "timed out", "text": "d"},
    )
    script = """
      const texts = () => shown().map(row => row.querySelector(".text").textContent).join("");
      set("level", "=2");
      const level = texts();
      set("verdict", "=right");
      const right = texts();
      set("verdict", "=failed");
      const failed = texts();
      form.reset();
      setTimeout(() => say([level, right, failed, texts()]), 50);
    """
    assert browser.ask(page, ROWS + script) == "bcd,b,d,abcd"


@pytest.mark.parametrize(
    ("order", "texts"),
    [
        ("", "abcd"),
        ("total down", "cabd"),
        ("total up", "bacd"),
        ("tokens down", "dbca"),
        ("advantage up", "badc"),
    ],
)
def test_rows_are_put_in_order_and_those_without_the_number_come_last(
    with_samples, browser, order, texts
):
    page = with_samples(
        {"text": "a", "total": 0.1, "token_count": 9, "advantage": 0.5},
        {"text": "b", "total": -2.0, "token_count": 100, "advantage": -1.0},
        {"text": "c", "total": 1.1, "token_count": 20, "advantage": None},
        {"text": "d", "total": None, "token_count": 1000, "advantage": 0.75},
    )
    script = f"set('order', '{order}');"
    script += "say(shown().map(row => row.querySelector('.text').textContent).join(''));"
    assert browser.ask(page, ROWS + script) == texts


HOSTILE = (
    "</script><script>document.title = 'owned'</script><!--<script> \u2028 &lt; "
    "<img src=x onerror=\"document.title='owned'\">"
)


def test_a_hostile_completion_shows_as_text_and_runs_nothing(with_samples, browser):
    fields = ("text", "prompt", "answer", "error", "level", "source", "key", "split")
    page = with_samples(dict.fromkeys(fields, HOSTILE) | {"parts": {HOSTILE: 1.0}})
    script = """
      const row = document.querySelector(".row");
      row.open = true;
      setTimeout(() => say(JSON.stringify([document.title, document.scripts.length,
        document.images.length, row.querySelector(".text").textContent])), 200);
    """
    seen = json.loads(browser.ask(page, script))
    assert seen == ["quickstart · rl-llm report", 3, 0, HOSTILE]


def test_the_policy_of_the_page_stops_a_script_that_is_not_its_own(two_rates, browser):
    foreign = two_rates.with_name("foreign.html")
    script = "<script>document.title = 'owned'</script></body>"
    foreign.write_text(two_rates.read_text().replace("</body>", script))
    dom, console = browser.load(foreign)
    assert "<title>quickstart · rl-llm report</title>" in dom
    assert "violates the following Content Security Policy" in console[0]


def test_without_scripts_plots_texts_and_rows_are_there_and_no_dead_controls(whole_run, browser):
    page = whole_run / "without.html"
    style = "<style>.row[hidden], .rows { outline: 0 }</style>"
    text = write_report(whole_run).read_text(encoding="utf-8")
    page.write_text(re.sub(r"<script>.*?</script>", style, text, flags=re.DOTALL))
    script = """
      const seen = selector => [...document.querySelectorAll(selector)].filter(
        each => each.checkVisibility()).length;
      say([".plot svg", ".tile", ".row", ".finder", ".choices"].map(seen));
    """
    assert browser.ask(page, script) == "22,6,136,0,0"


def test_two_runs_share_their_plots(make_run, rows, browser):
    first = make_run(rows, name="one")
    slower = [row | {"train/reward_mean": 0.25} for row in rows]
    second = make_run(slower, name="two")
    (second / "resolved.yaml").write_text("run: {name: other}\nlora: {rank: 32}\n")
    script = HOVER + "hover(plots['Rewards'], 16); say(lines().replace(/quickstart \\S+/, 'x'));"
    seen = browser.ask(write_pair(first, second), script)
    assert seen == "step 16 | mean reward | x | other 0.25"
