"""The recipes for GPUs, planned with the shapes of the real models and no value of them: headers
say what `rl-llm validate` says."""

import json
import re
from itertools import product
from pathlib import Path

import pytest
import torch
from tokenizers.pre_tokenizers import ByteLevel
from transformers import AutoModelForCausalLM, Qwen2Config, Qwen2Tokenizer

from rl_llm.cli.main import main
from rl_llm.config import load_recipe

ROOT = Path(__file__).parents[2]
RECIPES = sorted(ROOT.glob("recipes/qwen2.5-*/*.yaml"))
# As published: width, layers, heads, heads of keys and values, width of the MLP, vocabulary,
# whether the head is the embedding; and the parameters in all.
SHAPES = {
    "Qwen2.5-0.5B-Instruct": ((896, 24, 14, 2, 4864, 151936, True), 494_032_768),
    "Qwen2.5-1.5B-Instruct": ((1536, 28, 12, 2, 8960, 151936, True), 1_543_714_304),
    "Qwen2.5-7B-Instruct": ((3584, 28, 28, 4, 18944, 152064, False), 7_615_616_512),
}
LONGEST = {"grpo-gsm8k": 254, "grpo-math": 512}
"""Tokens of the longest prompt: of GSM8K in the models' own tokens and template; of MATH what
`data.max_prompt_tokens` lets pass."""
READS = {"grpo-math": ["different references for reward 'math_answer' to read: 1"]}
"""What is said of references that a worker reads."""
INSTRUCTION = {"grpo-gsm8k": 61, "grpo-math": 62}
"""Characters of a prompt that are not the question's."""


def config(name):
    width, layers, heads, kv_heads, mlp, vocabulary, ties = SHAPES[name][0]
    return Qwen2Config(
        architectures=["Qwen2ForCausalLM"],
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        intermediate_size=mlp,
        vocab_size=vocabulary,
        tie_word_embeddings=ties,
        max_position_embeddings=32768,
        rms_norm_eps=1e-6,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
    )


def name_of(recipe):
    return f"{recipe.parent.name}-{recipe.stem}"


def header(recipe):
    """Return the comment at the top of a recipe as one line."""
    lines = recipe.read_text(encoding="utf-8").partition("\n\n")[0].splitlines()
    return " ".join(" ".join(line.removeprefix("#") for line in lines).split())


def claims(recipe):
    """Return what the header says: GB of a GPU, arguments of `validate`, and its estimate."""
    found = re.findall(
        r"GPUs? of (\d+) GB: `rl-llm validate RECIPE ([^`]+)` estimates ([\d.]+) GiB",
        header(recipe),
    )
    return [(int(gpu), arguments, float(gib)) for gpu, arguments, gib in found]


def other_files(recipe):
    """Return the files of accelerate's that the header names beside those of its estimates."""
    named = re.findall(r"recipes/accelerate/\w+\.yaml", header(recipe))
    return sorted({file for file in named if not any(file in c for _, c, _ in claims(recipe))})


CLAIMS = [(recipe, *claim) for recipe in RECIPES for claim in claims(recipe)]
FILES = [(recipe, file) for recipe in RECIPES for file in other_files(recipe)]


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Return a function that gives the overrides by which a recipe finds a model and problems.

    The model's folder holds its configuration, and a tokenizer of its class for which each byte is
    a token; the longest problem has as many tokens as in the real ones.
    """
    home = tmp_path_factory.mktemp("hub")
    letters = {letter: number for number, letter in enumerate(sorted(ByteLevel.alphabet()))}
    template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    tokenizer = Qwen2Tokenizer(vocab=letters, merges=[], chat_template=template)
    for kind, split in product(LONGEST, ("train", "test")):
        longest = LONGEST[kind] - INSTRUCTION[kind] if split == "train" else 0
        questions = [f"{split} {number}" for number in range(700)]
        questions[0] = questions[0].ljust(longest, ".")
        rows = [
            json.dumps({"question": text, "problem": text, "answer": "#### 1", "level": 1})
            for text in questions
        ]
        (home / kind).mkdir(exist_ok=True)
        (home / kind / f"{split}.jsonl").write_text("\n".join(rows), encoding="utf-8")
    for name in SHAPES:
        config(name).save_pretrained(home / name)
        tokenizer.save_pretrained(home / name)

    def overrides(recipe):
        name = load_recipe(recipe).model.path.removeprefix("Qwen/")
        data = [f"data.{pool}.0.path={home / recipe.stem}" for pool in ("train", "eval")]
        return [f"model.path={home / name}", *data]

    return overrides


@pytest.mark.parametrize("name", SHAPES)
def test_the_shapes_are_those_of_the_published_models(name):
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config(name))
    assert sum(parameter.numel() for parameter in model.parameters()) == SHAPES[name][1]


@pytest.mark.parametrize("recipe", RECIPES, ids=name_of)
def test_a_recipe_is_of_a_known_model_takes_the_engine_at_hand_and_says_what_it_needs(recipe):
    found = load_recipe(recipe)
    assert found.model.path.removeprefix("Qwen/") in SHAPES
    assert found.rollout.engine == "auto"
    assert claims(recipe)


def plan(recipe, arguments, places, capsys, monkeypatch):
    """Run `rl-llm validate`, and return the GiB that it estimates of a GPU."""
    monkeypatch.chdir(ROOT)
    shown = str(recipe.relative_to(ROOT))
    assert main(["validate", shown, *places(recipe), *arguments]) == 0
    printed, errors = capsys.readouterr()
    assert errors == ""
    lines = [line for line in printed.splitlines() if not re.match(r"\s+\w|[│┌├└]", line)]
    assert lines == [
        "engine: vllm (planned for GPUs with vLLM installed; rollout.engine=transformers plans "
        "without)",
        "data.train: 700 problems",
        "data.eval: 700 problems",
        f"longest prompt: {LONGEST[recipe.stem]} tokens",
        *READS.get(recipe.stem, []),
        "vLLM has rollout.vllm.memory_fraction=0.4 of the GPU while it generates, not while the "
        "policy learns: the last row is the least GPU on which both find room",
        f"{shown}: valid as planned; neither weights nor a rollout engine were tried",
    ]
    assert "activations of a micro-batch, at most" in printed
    (gib,) = re.findall(r"memory a GPU needs, about +│ ([\d.]+) GiB", printed)
    return float(gib)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "gpu", "arguments", "gib"),
    CLAIMS,
    ids=[f"{name_of(recipe)}-{gpu}GB" for recipe, gpu, *_ in CLAIMS],
)
def test_the_header_says_what_validate_estimates_and_it_leaves_a_tenth_of_the_gpu_free(
    recipe, gpu, arguments, gib, places, capsys, monkeypatch
):
    assert plan(recipe, arguments.split(), places, capsys, monkeypatch) == gib
    assert gib * 2**30 < 0.9 * gpu * 1e9


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "file"),
    FILES,
    ids=[f"{name_of(recipe)}-{Path(file).stem}" for recipe, file in FILES],
)
def test_nothing_speaks_against_another_file_of_accelerate_that_the_header_names(
    recipe, file, places, capsys, monkeypatch
):
    gpu = max(gpu for gpu, *_ in claims(recipe))
    gib = plan(recipe, ["--config_file", file], places, capsys, monkeypatch)
    assert gib * 2**30 < 0.9 * gpu * 1e9
