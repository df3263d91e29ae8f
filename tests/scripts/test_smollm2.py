"""The program that makes the SmolLM2 folder, run as a user runs it."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "smollm2_from_pypi.py"


def make(out):
    command = [sys.executable, str(SCRIPT), "--out", str(out)]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    out = tmp_path_factory.mktemp("models") / "smollm2"
    done = make(out)
    assert done.returncode == 0, done.stderr
    return out


@pytest.mark.slow
def test_the_folder_answers_a_sum_and_nothing_else_is_left_beside_it(made):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(made)
    tokenizer = AutoTokenizer.from_pretrained(made)
    chat = [{"role": "user", "content": "What is 7 + 5?"}]
    inputs = tokenizer.apply_chat_template(
        chat, add_generation_prompt=True, return_dict=True, return_tensors="pt"
    )
    output_ids = model.generate(**inputs, do_sample=False, max_new_tokens=40)[0]
    new_ids = output_ids[inputs["input_ids"].shape[1] :].tolist()
    assert "12" in tokenizer.decode(new_ids, skip_special_tokens=True)
    assert new_ids[-1] == tokenizer.eos_token_id == model.generation_config.eos_token_id
    assert not hasattr(model.config, "quantization_config")
    assert [entry.name for entry in made.parent.iterdir()] == [made.name]


@pytest.mark.slow
def test_the_tokenizer_is_the_published_one(made):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(made)
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|im_end|>")
    assert tokenizer.tokenize("\n\n12") == ["ĊĊ", "1", "2"]
    chat = [{"role": "user", "content": "Hi"}]
    assert tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False) == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
        "<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )


@pytest.mark.slow
def test_a_second_run_says_that_the_folder_is_there(made):
    done = make(made)
    assert (done.returncode, done.stdout) == (0, f"already there: {made}\n")


def test_a_folder_that_holds_something_else_is_refused(tmp_path):
    (tmp_path / "notes.txt").touch()
    done = make(tmp_path)
    assert done.returncode == 2
    assert "exists and holds no config.json; remove it or name another" in done.stderr
