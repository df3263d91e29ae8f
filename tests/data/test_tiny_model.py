from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from rl_llm.plugins import load_module, resolve, shipped_folder
from rl_llm.seeds import derive_seed

MODELS = shipped_folder("data") / "models"
SCRIPT = Path(__file__).parents[2] / "scripts" / "make_tiny_model.py"
NAMES = ["carry-adder", "carry-adder-frontier"]
SOLVED = "47+38=<think>7+8+0=15 4+3+1=8</think><answer>85</answer>"

arithmetic = resolve("arithmetic", kind="data").module


@pytest.fixture(params=NAMES)
def folder(request):
    return MODELS / request.param


@pytest.fixture(scope="module")
def script():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(SCRIPT.parent)  # where its own imports lie when it is run
        yield load_module(SCRIPT)


def test_a_shipped_model_has_at_most_8_mb_of_float32_safetensors(folder):
    sizes = [file.stat().st_size for file in folder.glob("*.safetensors")]
    assert 0 < sum(sizes) <= 8_000_000
    assert AutoModelForCausalLM.from_pretrained(folder).dtype == torch.float32


def test_a_shipped_model_has_heads_of_32_and_room_for_eight_digits(folder):
    config = AutoModelForCausalLM.from_pretrained(folder).config
    assert config.head_dim == config.hidden_size // config.num_attention_heads == 32
    tokenizer = AutoTokenizer.from_pretrained(folder)
    longest = "99999999+99999999=" + arithmetic.worked_solution(99999999, 99999999)
    assert len(tokenizer(longest).input_ids) < config.max_position_embeddings
    assert config.vocab_size == len(tokenizer)


def test_tags_are_one_token_each_and_are_not_skipped_as_special(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    token_ids = tokenizer(SOLVED + "<eos>").input_ids
    # The prompt, two steps with the space between, the answer, four tags, the end.
    assert len(token_ids) == 6 + 16 + 2 + 4 + 1
    assert tokenizer.decode(token_ids, skip_special_tokens=True) == SOLVED
    assert tokenizer.decode(token_ids) == SOLVED + "<eos>"


def test_prompts_can_be_padded_on_the_left(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    rows = tokenizer(["1+2=", "47+38="], padding=True).input_ids
    assert [len(row) for row in rows] == [6, 6]
    assert rows[0][:2] == [tokenizer.pad_token_id] * 2


def test_a_shipped_model_ends_and_pads_with_the_tokenizers_symbols(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    generation = AutoModelForCausalLM.from_pretrained(folder).generation_config
    assert generation.eos_token_id == tokenizer.eos_token_id == tokenizer("<eos>").input_ids[0]
    assert generation.pad_token_id == tokenizer.pad_token_id != tokenizer.eos_token_id


def test_the_card_says_how_to_make_the_model_and_what_it_can_do(folder):
    card = (folder / "README.md").read_text(encoding="utf-8")
    warm_up = "frontier" if folder.name.endswith("frontier") else "sharpen"
    command = f"make_tiny_model.py --warm-up {warm_up} --out data/models/{folder.name}\n"
    assert command in card
    assert "| all | " in card and "| 0.98 to 1.00 | " in card


def test_the_card_of_the_quickstarts_model_shows_a_pool_that_can_be_learnt_from():
    card = (MODELS / "carry-adder" / "README.md").read_text(encoding="utf-8")
    cells = [line.strip("| ").split(" | ") for line in card.splitlines() if line.startswith("| ")]
    by_level = {cell[0]: (float(cell[1]), float(cell[2])) for cell in cells if cell[0].isdigit()}
    informative = next(float(cell[2]) for cell in cells if cell[0] == "all")
    assert 0.3 <= informative <= 0.5
    assert by_level["1"][0] > 0.95 and 0.005 < by_level["8"][0] < 0.1


def test_warm_up_examples_are_problems_of_the_training_split_alone(script):
    examples = script.draw_examples(script.WARM_UPS["sharpen"], seed=0)
    for prompt, _ in (next(examples) for _ in range(400)):
        left, right = map(int, prompt.rstrip("=").split("+"))
        problem = arithmetic.make_problem(left, right, level=len(str(left)))
        assert problem.prompt == prompt
        assert arithmetic.split_of(problem) == "train"


def test_the_warm_up_loss_counts_the_solution_and_the_end_but_not_the_prompt(script):
    tokenizer = script.make_tokenizer()
    model = script.make_model(tokenizer, seed=0)
    example = ("1+2=", "<think>1+2+0=3</think><answer>3</answer>")
    _, num_tokens = script.solution_loss(model, tokenizer, [example])
    assert num_tokens == 4 + 7 + 1 + 1  # Tags, `1+2+0=3`, `3`, the end.
    _, num_tokens = script.solution_loss(model, tokenizer, [example, ("10+20=", "<answer>30")])
    assert num_tokens == 13 + 3 + 1


def test_padding_a_row_does_not_change_its_warm_up_loss(script):
    tokenizer = script.make_tokenizer()
    model = script.make_model(tokenizer, seed=0)
    pair = [
        ("1+2=", arithmetic.worked_solution(1, 2)),
        ("71+22=", arithmetic.worked_solution(71, 22)),
    ]
    alone = sum(script.solution_loss(model, tokenizer, [example])[0].item() for example in pair)
    together = script.solution_loss(model, tokenizer, pair)[0].item()
    assert together == pytest.approx(alone, rel=1e-5)


def test_two_makings_with_one_seed_give_the_same_weights(script):
    def made(seed):
        tokenizer = script.make_tokenizer()
        model = script.make_model(tokenizer, seed=seed)
        script.train(model, tokenizer, script.WARM_UPS["frontier"], num_steps=2, seed=seed)
        return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])

    assert torch.equal(made(0), made(0))
    assert not torch.equal(made(0), made(1))


def test_a_group_is_informative_when_some_but_not_all_of_its_eight_are_correct(script):
    all_right, one_right, none_right = [True] * 8, [True] + [False] * 7, [False] * 8
    samples = np.array([all_right + one_right, none_right + none_right])
    assert script.informative_share(samples) == 0.25


def test_tables_show_pass_rate_by_level_and_problems_by_pass_rate(script):
    half, never = [True] * 32 + [False] * 32, [False] * 64
    samples = {1: np.array([half, half]), 2: np.array([never, never])}
    assert script.level_table(samples).splitlines()[2:] == [
        "| 1 | 0.500 | 0.00 |",
        "| 2 | 0.000 | 0.00 |",
        "| all | 0.250 | 0.00 |",
    ]
    histogram = script.histogram_table(samples).splitlines()
    assert f"| 0.00 to 0.02 | 2 | `{'#' * 30}` |" in histogram
    assert f"| 0.50 to 0.75 | 2 | `{'#' * 30}` |" in histogram


def test_a_finished_folder_takes_the_place_of_an_older_one(script, tmp_path):
    draft, out = tmp_path / "model.draft", tmp_path / "model"
    for folder, file in ((draft, "new"), (out, "old")):
        folder.mkdir()
        (folder / file).touch()
    script.replace_folder(draft, out)
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")] == [
        "model",
        "model/new",
    ]


@pytest.mark.slow
def test_the_quickstarts_model_solves_level_one_and_hardly_ever_level_eight(script):
    tokenizer = AutoTokenizer.from_pretrained(MODELS / "carry-adder")
    model = AutoModelForCausalLM.from_pretrained(MODELS / "carry-adder")
    torch.manual_seed(derive_seed("tiny model", "pass rate"))

    def held_out_pass_rate(level):
        held_out = list(arithmetic.arithmetic(levels=[level], size=16, split="eval", seed=1))
        return script.correct_samples(model, tokenizer, held_out).mean()

    assert held_out_pass_rate(1) > 0.9
    assert held_out_pass_rate(8) < 0.1
