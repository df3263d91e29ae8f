"""GSM8K: answers cut out of solutions, levels, prompts and samples."""

import json
import logging
from pathlib import Path

import pytest

from rl_llm.errors import ConfigError, DataError
from rl_llm.plugins import build, resolve
from rl_llm.records import content_key

SHARED = Path(__file__).parents[2] / ".." / "shared" / "data" / "gsm8k"
SOLUTION = "He has <<2*600=1200>>1200 clips.\nHe adds 34.\n#### 1,234"


def read(path, **options):
    target = resolve("gsm8k", kind="data").target
    return list(build(target, {"path": str(path), **options}, path="data.train.0"))


@pytest.fixture
def folder(tmp_path):
    rows = [{"question": f"Question {n}?", "answer": SOLUTION} for n in range(20)]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "test.jsonl").write_text(json.dumps({"question": "Last?", "answer": "#### 7"}))
    return tmp_path


def test_the_answer_is_what_follows_the_hashes_without_commas(folder):
    problem = read(folder)[0]
    assert problem.answer == "1234"
    assert problem.meta == {"solution": SOLUTION}
    assert problem.source == "gsm8k"


def test_the_level_is_the_number_of_lines_before_the_hashes(folder):
    assert read(folder)[0].level == 2
    assert read(folder, split="test")[0].level == 0


def test_the_prompt_is_a_user_message_with_the_instruction_after_a_blank_line(folder):
    problem = read(folder, instruction="End with ####.")[3]
    assert problem.prompt == ({"role": "user", "content": "Question 3?\n\nEnd with ####."},)
    assert problem.key == content_key(problem.prompt, "1234")


def test_a_system_message_and_plain_prompts_are_options(folder):
    chat = read(folder, system="Be brief.", instruction="")[0].prompt
    assert chat == (
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Question 0?"},
    )
    assert read(folder, chat=False, instruction="")[0].prompt == "Question 0?"


def test_a_single_file_is_read_without_a_split(folder):
    assert len(read(folder / "train.jsonl")) == 20


def test_size_draws_without_replacement_and_depends_on_the_seed(folder):
    drawn = [[p.prompt[0]["content"] for p in read(folder, size=8, seed=s)] for s in (0, 0, 1)]
    everything = [p.prompt[0]["content"] for p in read(folder)]
    assert len(set(drawn[0])) == 8
    assert drawn[0] == [text for text in everything if text in drawn[0]]
    assert drawn[0] == drawn[1] != drawn[2]


def test_a_size_larger_than_the_data_gives_all_and_says_so(folder, caplog):
    with caplog.at_level(logging.WARNING):
        assert len(read(folder, size=21)) == 20
    assert caplog.messages == ["gsm8k holds 20 problems, size=21 were asked for"]


def test_a_solution_without_hashes_is_named(tmp_path):
    rows = [{"question": "a", "answer": "#### 1"}, {"question": "b", "answer": "It is 2."}]
    file = tmp_path / "own.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(
        DataError, match=r"own\.jsonl: the solution of question 2 does not end with"
    ):
        read(file)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, "size=0: use at least 1"),
        ({"chat": False, "system": "Be brief."}, "a plain prompt has no system message"),
        ({"split": "eval"}, "split='eval': input should be 'train' or 'test'"),
    ],
)
def test_options_that_cannot_be_meant_are_refused_at_the_call(folder, options, message):
    with pytest.raises(ConfigError, match=message):
        build(resolve("gsm8k", kind="data").target, {"path": str(folder), **options}, path="x")


@pytest.mark.skipif(not SHARED.is_dir(), reason="the GSM8K files are not beside the repository")
def test_the_public_files_are_read_whole_and_their_splits_are_disjoint():
    train, test = read(SHARED, split="train"), read(SHARED, split="test")
    assert (len(train), len(test)) == (7473, 1319)
    assert not {p.key for p in train} & {p.key for p in test}
    assert (train[0].answer, train[0].level) == ("72", 2)
    assert {p.level for p in train} == {2, 3, 4, 5, 6, 7, 8, 9}
