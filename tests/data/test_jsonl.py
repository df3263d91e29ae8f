"""Tables to problems: columns, chats, levels, and every way a row can be wrong."""

import json
import re

import pytest

from rl_llm.errors import ConfigError, DataError
from rl_llm.plugins import build, resolve
from rl_llm.records import content_key


def read(path, **options):
    target = resolve("jsonl", kind="data").target
    return list(build(target, {"path": str(path), **options}, path="data.train.0"))


@pytest.fixture
def write(tmp_path):
    def write(*rows, name="sums.jsonl"):
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        (tmp_path / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
        return tmp_path / name

    return write


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def test_columns_are_mapped_and_the_others_become_meta(write):
    file = write({"q": "1+1=", "a": "2", "grade": 3, "unit": "kg"})
    (problem,) = read(file, prompt="q", answer="a", level="grade")
    assert (problem.prompt, problem.answer, problem.level) == ("1+1=", "2", 3)
    assert (problem.source, problem.meta) == ("sums", {"unit": "kg"})
    assert problem.key == content_key("1+1=", "2")


def test_without_a_level_column_all_problems_have_level_0(write):
    (problem,) = read(write({"prompt": "p", "answer": "a"}), source="mine")
    assert (problem.level, problem.source) == (0, "mine")


def test_a_column_named_level_that_is_not_read_is_told_of_once(write, caplog):
    row = {"prompt": "p", "answer": "a", "level": 3}
    assert [problem.level for problem in read(write(row, row))] == [0, 0]
    (said,) = [record.getMessage() for record in caplog.records]
    assert "sums.jsonl line 1: there is a column 'level', which is not read" in said
    assert said.endswith("add level: level to the source")
    caplog.clear()
    assert [problem.level for problem in read(write(row), level="level")] == [3]
    assert caplog.records == []


def test_a_chat_prompt_keeps_roles_and_contents(write):
    turns = [{"role": "user", "content": "hi", "name": None}, {"role": "user", "content": "2?"}]
    (problem,) = read(write({"prompt": turns, "answer": "a"}))
    assert problem.prompt == ({"role": "user", "content": "hi"}, {"role": "user", "content": "2?"})


@pytest.mark.parametrize(
    ("options", "roles"),
    [({}, None), ({"chat": True}, ["user"]), ({"system": "Add."}, ["system", "user"])],
)
def test_a_plain_prompt_becomes_a_chat_when_asked(write, options, roles):
    (problem,) = read(write({"prompt": "1+1=", "answer": "2"}), **options)
    if roles is None:
        assert problem.prompt == "1+1="
    else:
        assert [turn["role"] for turn in problem.prompt] == roles
        assert problem.prompt[-1]["content"] == "1+1="


def test_a_chat_keeps_its_own_system_message(write):
    turns = [{"role": "system", "content": "Own."}, {"role": "user", "content": "hi"}]
    (problem,) = read(write({"prompt": turns, "answer": "a"}), system="Other.")
    assert [turn["content"] for turn in problem.prompt] == ["Own.", "hi"]


@pytest.mark.parametrize(
    ("value", "answer"),
    [
        (7, "7"),
        (7.0, "7"),
        (0.5, "0.5"),
        (True, "true"),
        (" as is ", " as is "),
        (["é", 1], '["é", 1]'),
    ],
)
def test_answers_that_are_no_text_become_text_by_rule(write, value, answer):
    assert read(write({"prompt": "p", "answer": value}))[0].answer == answer


def test_blank_lines_and_a_byte_order_mark_are_no_rows(tmp_path):
    file = tmp_path / "bom.jsonl"
    file.write_bytes(b'\xef\xbb\xbf{"prompt": "p", "answer": "a"}\r\n\r\n')
    assert [problem.prompt for problem in read(file)] == ["p"]


GOOD = {"prompt": "p", "answer": "a"}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ('{"prompt": "p",', "line 2: not valid JSON at column 16"),
        ('["p", "a"]', "line 2: ['p', 'a'] is no JSON object"),
        (
            {"promt": "p", "answer": "a"},
            "line 2: there is no column 'prompt' (did you mean 'promt'?",
        ),
        (
            {"prompt": "p"},
            "line 2: there is no column 'answer'; known: prompt; name the one that holds the "
            "answer, as `answer: COLUMN`",
        ),
        ({"prompt": "p", "answer": None}, "line 2: column 'answer', the answer, is null"),
        ({"prompt": 5, "answer": "a"}, "line 2: column 'prompt' holds 5; a prompt is text or"),
        ({"prompt": ["hi"], "answer": "a"}, "line 2: column 'prompt' holds the turn 'hi'"),
        (
            {"prompt": [{"role": "assistant", "content": "2"}], "answer": "a"},
            "line 2: the chat in column 'prompt' ends with the assistant's turn",
        ),
    ],
)
def test_a_row_that_cannot_be_used_is_named_by_file_and_line(write, row, message):
    file = write(GOOD, row)
    with pytest.raises(DataError, match=re.escape(f"{file} {message}")):
        read(file)


def test_line_numbers_count_blank_lines(write):
    with pytest.raises(DataError, match="line 3: not valid JSON"):
        read(write(GOOD, "", "{"))


def test_bytes_that_are_not_utf8_are_named_by_line(tmp_path):
    file = tmp_path / "latin.jsonl"
    file.write_bytes(b'{"prompt": "p", "answer": "a"}\n{"prompt": "caf\xe9", "answer": "a"}\n')
    with pytest.raises(DataError, match=r"latin\.jsonl line 2: byte 16 is not UTF-8"):
        read(file)


@pytest.mark.parametrize("value", [1.5, None, True, [1]])
def test_a_level_is_a_whole_number_or_a_name(write, value):
    with pytest.raises(DataError, match=r"line 1: column 'grade' holds .*; a level is a whole"):
        read(write({**GOOD, "grade": value}), level="grade")


@pytest.mark.parametrize("value", [55, -0.1, True, "0.5", float("nan")])
def test_a_pass_rate_that_is_no_share_is_named_by_its_line(write, value):
    file = write(
        {**GOOD, "pass_rate": 1}, {**GOOD, "pass_rate": None}, {**GOOD, "pass_rate": value}
    )
    with pytest.raises(DataError, match=r"line 3: column 'pass_rate' holds .* from 0 to 1 or null"):
        read(file)


def test_a_pass_rate_in_another_role_may_be_any_number(write):
    (problem,) = read(write({**GOOD, "pass_rate": 55}), level="pass_rate")
    assert (problem.level, problem.meta.get("pass_rate")) == (55, None)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"there is no file '.*missing\.jsonl' \(looked from"):
        read(tmp_path / "missing.jsonl")


def test_a_single_file_has_no_splits(write):
    with pytest.raises(
        ConfigError,
        match=r"^data\.train\.0: split='test': .* leave it out; its default is 'train'$",
    ):
        read(write(GOOD), split="test")


def test_a_folder_gives_the_file_of_the_split(write):
    write({"prompt": "a", "answer": "1"}, name="train.jsonl")
    file = write({"prompt": "b", "answer": "1"}, name="test.jsonl")
    assert [problem.prompt for problem in read(file.parent, split="test")] == ["b"]
    assert [problem.prompt for problem in read(file.parent)] == ["a"]


@pytest.mark.parametrize("suffix", ["json", "csv", "parquet"])
def test_other_formats_are_read_like_jsonl(tmp_path, own_cache, suffix):
    import pandas as pd

    table = pd.DataFrame({"prompt": ["1+1=", "1+2="], "answer": [2, 3], "grade": [1, 2]})
    file = tmp_path / f"sums.{suffix}"
    match suffix:
        case "json":
            table.to_json(file, orient="records")
        case "csv":
            table.to_csv(file, index=False)
        case "parquet":
            table.to_parquet(file)
    problems = read(file, level="grade")
    assert [(p.prompt, p.answer, p.level) for p in problems] == [("1+1=", "2", 1), ("1+2=", "3", 2)]
    with pytest.raises(DataError, match=r"sums\.\w+ row 1: there is no column 'question'"):
        read(file, prompt="question")


@pytest.mark.parametrize("suffix", ["jsonl", "json", "csv"])
@pytest.mark.parametrize(
    "answers",
    [
        ["0012", "1.50", "True", "NA", "null"],
        ["0012", "0013"],
        ["True", "False"],
        ["2024-01-02T00:00:00", "2025-01-02T00:00:00"],
    ],
)
def test_text_stays_as_it_is_written_in_every_format(tmp_path, own_cache, suffix, answers):
    rows = [{"q": f"0{n}", "a": answer, "level": n} for n, answer in enumerate(answers)]
    lines = [json.dumps(row) for row in rows]
    table = {
        "jsonl": "\n".join(lines),
        "json": f"[{', '.join(lines)}]",
        "csv": "\n".join(["q,a,level", *(",".join(map(str, row.values())) for row in rows)]),
    }
    file = tmp_path / f"sums.{suffix}"
    file.write_text(table[suffix])
    problems = read(file, prompt="q", answer="a", level="level")
    assert [problem.answer for problem in problems] == answers
    assert [problem.prompt for problem in problems] == ["00", "01", "02", "03", "04"][: len(rows)]
    assert [problem.level for problem in problems] == [0, 1, 2, 3, 4][: len(rows)]


def test_other_columns_of_a_csv_file_stay_numbers(tmp_path, own_cache):
    (tmp_path / "sums.csv").write_text(
        "prompt,answer,difficulty,pass_rate\n1+1=,2,007,.5\n1+2=,3,8,\n"
    )
    first, second = read(tmp_path / "sums.csv")
    assert first.meta == {"difficulty": 7, "pass_rate": 0.5}
    assert second.meta == {"difficulty": 8, "pass_rate": None}


def test_an_empty_answer_of_a_csv_file_is_an_error(tmp_path, own_cache):
    (tmp_path / "sums.csv").write_text("prompt,answer\n1+1=,2\n1+2=,\n")
    with pytest.raises(DataError, match=r"sums\.csv row 2: column 'answer', the answer, is null"):
        read(tmp_path / "sums.csv")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("prompt,answer\nWhat is 1,000+1?,1001\n", "line 2: 3 cells under a header of 2; write a"),
        ('prompt,answer\n"1,0",1\n\n2+2=,4,\n', "line 4: 3 cells under a header of 2; write a"),
        ("prompt;answer\na;b\n", ": the header 'prompt;answer' is one cell; separate cells by c"),
        ("prompt,answer,prompt\na,b,c\n", ": the header names 'prompt' twice; rename one"),
    ],
)
def test_cells_of_a_csv_file_that_would_move_to_other_columns_are_refused(tmp_path, text, said):
    file = tmp_path / "sums.csv"
    file.write_text(text)
    with pytest.raises(DataError, match=re.escape(str(file)) + " ?" + re.escape(said)):
        read(file)


def test_a_csv_file_of_quoted_commas_and_long_cells_is_read(tmp_path, own_cache):
    long = "9" * 200_000
    (tmp_path / "sums.csv").write_text(
        f'\ufeffprompt,answer\n"What is 1,000+1?\nSay ""it"".",1001\n\n{long},x\n', encoding="utf-8"
    )
    assert [(each.prompt, each.answer) for each in read(tmp_path / "sums.csv")] == [
        ('What is 1,000+1?\nSay "it".', "1001"),
        (long, "x"),
    ]


@pytest.mark.parametrize("text", ["", "prompt,answer\n", "prompt,answer\n\n"])
def test_a_csv_file_without_rows_holds_no_problem(tmp_path, text):
    (tmp_path / "sums.csv").write_text(text)
    assert read(tmp_path / "sums.csv") == []


def test_a_name_of_one_file_is_refused(write):
    with pytest.raises(ConfigError, match=r"name='main': .* is one file without names; leave it"):
        read(write({"prompt": "p", "answer": "a"}), name="main")


@pytest.mark.parametrize("prompt", [" ", [], [{"role": "user", "content": "\n"}]])
def test_an_empty_prompt_is_an_error_with_the_line(write, prompt):
    file = write({"prompt": "a", "answer": "1"}, {"prompt": prompt, "answer": "1"})
    with pytest.raises(DataError, match=r"sums\.jsonl line 2: column 'prompt' holds an empty"):
        read(file, system="Be brief.")


def test_a_json_file_holds_a_list_or_an_object_a_line(tmp_path):
    (tmp_path / "list.json").write_text('\ufeff\n[\n {"prompt": "a",\n  "answer": "1"}\n]\n')
    (tmp_path / "lines.json").write_text('{"prompt": "a", "answer": "1"}\n')
    for name in ("list", "lines"):
        assert [problem.prompt for problem in read(tmp_path / f"{name}.json")] == ["a"]


def test_a_damaged_json_file_is_one_error_with_the_place(tmp_path):
    (tmp_path / "sums.json").write_text('[\n{"prompt": "a", "answer": "1"},\n{"prompt" "b"}\n]')
    with pytest.raises(DataError, match=r"sums\.json: not valid JSON: .* line 3 column 11 .*whole"):
        read(tmp_path / "sums.json")
    (tmp_path / "sums.json").write_text('[{"prompt": "a", "answer": "1"}, 7]')
    with pytest.raises(DataError, match=r"sums\.json row 2: 7 is no JSON object"):
        read(tmp_path / "sums.json")


def test_a_damaged_file_is_one_error_with_its_name(tmp_path, own_cache):
    (tmp_path / "sums.parquet").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"cannot load '.*sums\.parquet'.*; check that the file is"):
        read(tmp_path / "sums.parquet")


def test_a_folder_without_data_is_one_error(tmp_path, own_cache):
    with pytest.raises(DataError, match=r"datasets cannot load .* name a \.jsonl"):
        read(tmp_path)
