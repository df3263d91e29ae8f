"""`reward_model` with small real classifiers, beside a forward pass of each text alone."""

import shutil

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
)

from rl_llm.cli.main import main
from rl_llm.config import RewardUse
from rl_llm.errors import ConfigError, RunError
from rl_llm.plugins import resolve, shipped_folder
from rl_llm.records import Completion, Group, Problem
from rl_llm.scoring import Example, Failure, build_rubric, run_example

SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4}
SIZES |= {"num_hidden_layers": 2, "vocab_size": 257, "initializer_range": 0.5}
TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}<end>{% endfor %}"
CHAT = ({"role": "user", "content": "2+2?"},)
TEXTS = ["4", "It is 4, as anyone can count.", "", "5 \u00bd", "four <end>"]
AS_CHAT = [f"<user>2+2?<end><assistant>{text}<end>" for text in TEXTS]


def make_tokenizer(padding_side, template):
    """One token for each byte."""
    vocabulary = {c: i for i, c in enumerate(["<pad>", *sorted(ByteLevel.alphabet())])}
    backend = Tokenizer(BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = ByteLevel(add_prefix_space=False)
    backend.decoder = ByteLevelDecoder()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", padding_side=padding_side
    )
    tokenizer.chat_template = template
    return tokenizer


def make_model(kind, num_labels, padding):
    torch.manual_seed(0)
    if kind == "bert":  # Its positions are absolute: padding in front would move the text.
        model = BertForSequenceClassification(
            BertConfig(num_labels=num_labels, pad_token_id=0, **SIZES)
        )
    else:
        config = LlamaConfig(num_labels=num_labels, pad_token_id=padding, **SIZES)
        model = LlamaForSequenceClassification(config)
    return model.eval()


@pytest.fixture
def save(tmp_path):
    def build(kind="llama", *, num_labels=1, padding=0, side="left", template=TEMPLATE):
        folder = tmp_path / f"{kind}-{num_labels}-{padding}-{side}"
        make_model(kind, num_labels, padding).save_pretrained(folder)
        make_tokenizer(side, template).save_pretrained(folder)
        return str(folder)

    return build


def alone(texts, kind="llama", *, last=None):
    """Return the logit of each text by itself, from its bytes."""
    tokenizer, model = make_tokenizer("right", None), make_model(kind, 1, 0)
    rows = [tokenizer.encode(text, add_special_tokens=False)[-(last or 0) :] for text in texts]
    with torch.no_grad():
        return [model(torch.tensor([row])).logits.item() for row in rows]


def give(prompt=CHAT, completions=TEXTS, **options):
    inputs = {"prompt": prompt, "completions": list(completions), **options}
    plugin = resolve("reward_model", kind="rewards")
    return run_example(plugin, Example(inputs=inputs, expected=None))


@pytest.mark.parametrize("kind", ["llama", "bert"])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_a_score_is_the_logit_of_the_text_alone(save, kind, side, batch_size):
    expected = alone(AS_CHAT, kind)
    assert max(expected) - min(expected) > 0.1
    given = give(model=save(kind, side=side), batch_size=batch_size)
    assert given == pytest.approx(expected, abs=1e-5)


def test_a_model_that_knows_no_padding_takes_one_text_at_a_time(save):
    model = save(padding=None)
    assert give(model=model, batch_size=8) == pytest.approx(alone(AS_CHAT), abs=1e-5)


def test_a_prompt_that_is_a_text_stands_before_the_completion(save):
    given = give("2+2=", model=save(template=None))
    assert given == pytest.approx(alone([f"2+2={text}" for text in TEXTS]), abs=1e-5)


def test_of_a_long_text_the_last_tokens_count(save):
    given = give(model=save(), max_length=10)
    assert given == pytest.approx(alone(AS_CHAT, last=10), abs=1e-5)
    assert given[0] != pytest.approx(alone(AS_CHAT)[0], abs=1e-3)


def test_a_text_without_tokens_has_no_score(save):
    assert give("", ["", "4"], model=save()) == [None, pytest.approx(alone(["4"])[0], abs=1e-5)]


def test_half_the_precision_gives_other_digits(save):
    model = save()
    half, full = give(model=model, dtype="bfloat16"), give(model=model)
    assert half != full
    assert half == pytest.approx(full, abs=0.2)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (
            lambda save: str(shipped_folder("data") / "models" / "carry-adder"),
            "holds no weights for score.weight, so its scores would be random",
        ),
        (lambda save: save(num_labels=3), "has 3 logits, and a reward model has one"),
        (lambda save: save(template=None), "chat_template is not set"),
    ],
)
def test_what_is_no_reward_model_fails_and_says_why(save, make, reason):
    failures = give(model=make(save))
    assert all(isinstance(each, Failure) and reason in each.message for each in failures)
    assert "\n" not in failures[0].message


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({}, "rewards.0.model: required, and missing"),
        ({"model": "./none"}, "rewards.0.model='./none': this is not a folder; give the folder"),
        ({"model": "a/b", "device": "gpu"}, "rewards.0.device='gpu': string should match pattern"),
        ({"model": "a/b", "dtype": "int8"}, "rewards.0.dtype='int8': input should be 'float32'"),
        ({"model": "a/b", "max_length": 0}, "rewards.0.max_length=0: input should be greater"),
    ],
)
def test_wrong_options_are_errors_when_the_recipe_is_read(options, fault):
    with pytest.raises(ConfigError) as caught:
        build_rubric([RewardUse(use="reward_model", **options)], columns=())
    assert str(caught.value).startswith(fault)


def group_of(*texts):
    completions = tuple(
        Completion(
            token_ids=(1,), logprobs=(0.0,), text=text, finish_reason="stop", policy_version=0
        )
        for text in texts
    )
    problem = Problem(key="k", prompt=CHAT, answer="4")
    return Group(problem=problem, prompt_ids=(), completions=completions)


@pytest.mark.slow
def test_a_worker_loads_the_model_once_and_before_the_calls(save):
    model = save()
    use = RewardUse(use="reward_model", model=model, timeout_s=2, channel="judge")
    rubric = build_rubric([use, RewardUse(use="exact_answer")], columns=(), num_workers=1)
    found = []
    for _ in range(2):
        (scored,) = rubric.score([group_of(*TEXTS)])
        found.append([score.parts["reward_model"] for score in scored.scores])
        shutil.rmtree(model, ignore_errors=True)
    rubric.close()
    assert found[0] == found[1] == pytest.approx(alone(AS_CHAT), abs=1e-5)


@pytest.mark.slow
def test_a_model_that_no_worker_can_load_ends_the_run(save):
    use = RewardUse(use="reward_model", model=save(num_labels=2))
    rubric = build_rubric([use], columns=(), num_workers=1)
    with pytest.raises(RunError, match=r"cannot be loaded in a worker: .* has 2 logits"):
        list(rubric.score([group_of("4")]))
    rubric.close()


@pytest.mark.slow
def test_its_check_finds_no_fault(save, capsys):
    options = [f"model={save()}", "max_length=64", "timeout_s=120"]
    assert main(["rewards", "check", "reward_model", *options]) == 0
    assert "no fault was found" in capsys.readouterr().out
