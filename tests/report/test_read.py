import json

import pytest

from rl_llm.errors import InputError
from rl_llm.report.read import read_run


def test_a_series_has_points_only_where_the_key_was_written_and_finite(make_run):
    rows = [
        {"step": 0},
        {"step": 1, "optim/lr": 0.5},
        {"step": 2, "optim/lr": None},
        {"step": 3, "optim/lr": float("inf")},
        {"step": 4, "optim/lr": 0.25},
    ]
    series = read_run(make_run(rows)).series("optim/lr")
    assert (series.steps, series.values) == ((1, 4), (0.5, 0.25))


def test_levels_are_ordered_as_numbers_before_words(make_run):
    names = ("10", "9", "hard", "2.5", "easy")
    row = {"step": 0, **{f"eval/pass_rate/level={name}": 0.5 for name in names}}
    found = read_run(make_run([row])).names_between("eval/pass_rate/level=")
    assert found == ("2.5", "9", "10", "easy", "hard")


def test_a_last_line_that_is_being_written_is_left_out_and_noted(make_run):
    folder = make_run([{"step": 0}, {"step": 1}])
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "optim/l')
    run = read_run(folder)
    assert run.last_step == 1
    assert run.notes == ("the last line of metrics.jsonl is cut off and left out",)


def test_a_broken_line_before_the_last_is_an_error_that_names_it(make_run):
    folder = make_run([])
    (folder / "metrics.jsonl").write_text('{"step": 0}\n{"st\n{"step": 2}\n')
    with pytest.raises(InputError, match=r"metrics\.jsonl, line 2: not valid JSON"):
        read_run(folder)


@pytest.mark.parametrize("line", ["[1]", '{"optim/lr": 1}', '{"step": "one"}', '{"step": true}'])
def test_a_row_without_a_whole_step_is_an_error_that_names_its_line(make_run, line):
    folder = make_run([{"step": 0}])
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(InputError, match=r"line 2: .*whole number `step`"):
        read_run(folder)


def test_a_folder_that_does_not_exist_is_an_error_that_says_so(tmp_path):
    with pytest.raises(InputError, match=r"there is no folder .*nowhere"):
        read_run(tmp_path / "nowhere")


def test_a_folder_that_is_no_run_is_an_error_that_names_all_that_is_missing(tmp_path):
    with pytest.raises(InputError, match=r"resolved\.yaml and metrics\.jsonl missing"):
        read_run(tmp_path)


def test_a_run_without_a_complete_row_is_an_error_that_promises_none(make_run):
    folder = make_run([])
    (folder / "metrics.jsonl").write_text('{"ste')
    with pytest.raises(
        InputError, match=r"no complete row,.*; one that ended before it starts over"
    ):
        read_run(folder)


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("a: [", "not valid YAML"),
        ("- 1", "mapping of sections"),
        ("since: 2024-02-30", "day is out of range"),
        ("a: 1\na: 2", "stands twice"),
    ],
)
def test_a_damaged_recipe_is_an_error_that_names_the_file(make_run, text, rule):
    folder = make_run([{"step": 0}])
    (folder / "resolved.yaml").write_text(text)
    with pytest.raises(InputError, match=rf"resolved\.yaml.*{rule}"):
        read_run(folder)


def test_a_chat_prompt_becomes_pairs_of_role_and_content(make_run, make_sample):
    folder = make_run([{"step": 0}])
    (folder / "completions").mkdir()
    chat = [{"role": "system", "content": "Add."}, {"role": "user", "content": "2+2"}]
    row = {**make_sample(0, 3, 0), "prompt": chat}
    (folder / "completions" / "step-000000.jsonl").write_text(json.dumps(row) + "\n")
    (sample,) = read_run(folder).samples
    assert sample.prompt == (("system", "Add."), ("user", "2+2"))
    assert (sample.level, sample.split, sample.advantage) == ("3", "eval", None)


def test_a_sample_with_only_a_step_is_read_with_everything_else_empty(make_run):
    folder = make_run([{"step": 0}])
    (folder / "completions").mkdir()
    (folder / "completions" / "step-000000.jsonl").write_text('{"step": 0}\n')
    (sample,) = read_run(folder).samples
    assert (sample.text, sample.parts, sample.total, sample.correct) == ("", (), None, False)


@pytest.mark.parametrize("value", ["9" * 5000, "[" * 100_000], ids=["long", "deep"])
def test_a_line_that_json_alone_would_allow_is_named_like_any_other(make_run, value):
    folder = make_run([])
    (folder / "metrics.jsonl").write_text(f'{{"step": 0, "a": {value}\n{{"step": 1}}\n')
    with pytest.raises(InputError, match=r"metrics\.jsonl, line 1: not valid JSON"):
        read_run(folder)


def test_a_whole_number_that_is_no_float_has_no_point(make_run):
    series = read_run(make_run([{"step": 0, "a": 10**400}, {"step": 1, "a": 5}])).series("a")
    assert series.values == (5.0,)


def test_what_cannot_be_read_is_named(make_run):
    folder = make_run([{"step": 0}])
    (folder / "completions" / "step-000000.jsonl").mkdir(parents=True)  # As one without rights.
    with pytest.raises(InputError, match=r"step-000000\.jsonl cannot be read: Is a directory; "):
        read_run(folder)
