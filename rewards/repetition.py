"""The repetition penalty of "Demystifying Long Chain-of-Thought Reasoning in LLMs"
(https://arxiv.org/abs/2502.03373), for the completion as a whole, as TRL gives it."""

from pydantic import NonPositiveFloat, PositiveInt

INLINE = True  # Linear in the tokens, for n-grams of one size.

_TWICE = (1, 2, 3, 1, 2, 3)  # 123 231 312 123: 3 of 4 differ.

EXAMPLES = [
    ({"token_ids": token_ids, "ngram_size": size, "max_penalty": max_penalty}, expected)
    for token_ids, size, max_penalty, expected in (
        ((1, 2, 3, 4), 3, -1.0, 0.0),
        (_TWICE, 3, -1.0, -0.25),
        (_TWICE, 3, -2.0, -0.5),
        (_TWICE, 2, -1.0, -0.4),
        (_TWICE, 1, -1.0, -0.5),
        ((5, 5, 5, 5, 5), 2, -1.0, -0.75),
        ((5, 5), 3, -1.0, 0.0),
        ((), 3, -1.0, 0.0),
    )
]


def repetition(
    token_ids: tuple[int, ...], *, ngram_size: PositiveInt = 3, max_penalty: NonPositiveFloat = -1.0
) -> float:
    """`max_penalty` times (1 - different n-grams / all n-grams), an n-gram being n tokens in a row.

    0.0 where no n-gram comes twice, and for fewer than `ngram_size` tokens.
    """
    num_ngrams = len(token_ids) - ngram_size + 1
    if num_ngrams < 1:
        return 0.0
    different = set(zip(*(token_ids[start:] for start in range(ngram_size)), strict=False))
    return (num_ngrams - len(different)) / num_ngrams * max_penalty or 0.0
