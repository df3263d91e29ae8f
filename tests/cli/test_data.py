"""`rl-llm data preview` as a user runs it."""

import json

import pytest

from rl_llm.cli.data import spread
from rl_llm.cli.main import main
from rl_llm.problems import Pool
from rl_llm.records import Problem, content_key

RECIPE = """
run: {{name: preview, steps: 1}}
model: {{path: nowhere}}
data:
  train: [{{use: jsonl, path: {folder}/train.jsonl, level: grade}}]
  eval: [{{use: jsonl, path: {folder}/test.jsonl}}]
rewards: [{{use: exact_answer}}]
"""


@pytest.fixture
def recipe(tmp_path):
    train = [{"prompt": f"{n}+1=", "answer": n + 1, "grade": n // 2} for n in (1, 2, 2, 3)]
    test = [{"prompt": [{"role": "user", "content": "9+1="}], "answer": "10"}]
    for name, rows in (("train", train), ("test", test)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    file = tmp_path / "recipe.yaml"
    file.write_text(RECIPE.format(folder=tmp_path))
    return file


def test_preview_counts_both_pools_and_shows_problems(recipe, capsys):
    assert main(["data", "preview", str(recipe), "--num", "1"]) == 0
    key = content_key("1+1=", "2")
    chat_key = content_key([{"role": "user", "content": "9+1="}], "10")
    assert capsys.readouterr().out.splitlines() == [
        "data.train: 3 problems (4 read; 1 duplicate dropped)",
        "  train level 0: 1",
        "  train level 1: 2",
        "",
        f"train level 0 key {key}",
        "  prompt: 1+1=",
        "  answer: 2",
        "",
        "data.eval: 1 problem",
        "  test level 0: 1",
        "",
        f"test level 0 key {chat_key}",
        "  prompt: [user] 9+1=",
        "  answer: 10",
        "",
    ]


def test_preview_in_a_terminal_is_a_table_with_the_same_numbers(recipe, capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    assert main(["data", "preview", str(recipe), "--num", "9"]) == 0
    shown = capsys.readouterr().out
    assert "data.train: 3 problems (4 read; 1 duplicate dropped)" in shown
    assert "┃" in shown
    assert content_key("3+1=", "4") in shown


def test_overrides_change_what_is_shown(recipe, capsys):
    assert main(["data", "preview", str(recipe), "data.eval=[]", "--num", "0"]) == 0
    assert "data.eval" not in capsys.readouterr().out


def test_a_problem_in_both_pools_exits_with_2(recipe, capsys):
    train = recipe.parent / "train.jsonl"
    assert main(["data", "preview", str(recipe), f"data.eval.0.path={train}"]) == 2
    assert "3 problems in both data.train and data.eval" in capsys.readouterr().err


def test_a_malformed_line_exits_with_2_and_one_message(recipe, capsys):
    with (recipe.parent / "train.jsonl").open("a") as file:
        file.write("{oops\n")
    assert main(["data", "preview", str(recipe)]) == 2
    assert "train.jsonl line 5: not valid JSON" in capsys.readouterr().err


@pytest.mark.parametrize(("num", "rule"), [("x", "'x' is no whole number"), ("-1", "negative")])
def test_a_number_of_problems_is_a_whole_one(recipe, capsys, num, rule):
    with pytest.raises(SystemExit, match="2"):
        main(["data", "preview", str(recipe), "--num", num])
    assert rule in capsys.readouterr().err


def test_the_problems_shown_come_from_each_source_and_level_in_turn():
    def problem(source, level, text):
        key = content_key(text, "")
        return Problem(key=key, prompt=text, answer="", source=source, level=level)

    problems = [problem("a", level, f"a{level}{n}") for level in (1, 2) for n in (1, 2)]
    problems += [problem("b", 1, f"b1{n}") for n in (1, 2)]
    pool = Pool(problems=tuple(problems), num_read=6)
    assert [p.prompt for p in spread(pool, 5)] == ["a11", "b11", "a21", "b12", "a12"]
