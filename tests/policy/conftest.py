"""Small models made on the spot, and groups of tokens for them."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from rl_llm.policy.pack import TrainGroup, TrainRow

VOCABULARY = 23


@pytest.fixture
def tiny_llama():
    return make_llama()


@pytest.fixture(scope="module")
def model():
    """The model of `tiny_llama`, made once for tests that only read it."""
    return make_llama()


def make_llama():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=None,
    )
    return LlamaForCausalLM(config).requires_grad_(False).eval()


def random_group(generator, prompt_tokens, response_tokens):
    def ids(count):
        return tuple(torch.randint(2, VOCABULARY, (count,), generator=generator).tolist())

    return TrainGroup(
        prompt_ids=ids(prompt_tokens),
        rows=tuple(
            TrainRow(
                token_ids=ids(count),
                engine_logprobs=(-1.0,) * count,
                advantage=float(torch.randn((), generator=generator)),
            )
            for count in response_tokens
        ),
    )


@pytest.fixture
def uneven_groups():
    """Prompts and responses of many lengths, one-token ones among them."""
    return random_groups([(5, [3, 9, 1]), (1, [4, 4]), (11, [7, 2, 2, 12]), (3, [1, 1])])


@pytest.fixture(scope="module")
def groups():
    """The groups of `uneven_groups`, and two of which one has responses of one token alone."""
    uneven = [(5, [3, 9, 1]), (1, [4, 4]), (11, [7, 2, 2, 12]), (3, [1, 1])]
    return {
        "uneven": random_groups(uneven),
        "one token": random_groups([(5, [3, 9]), (20, [1, 1])]),
    }


def random_groups(shapes):
    generator = torch.Generator().manual_seed(1)
    return [random_group(generator, prompt, responses) for prompt, responses in shapes]
