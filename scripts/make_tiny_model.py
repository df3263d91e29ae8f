"""Make one of the two small models that ship in `data/models/`, from nothing.

A Llama of 0.86M parameters learns by supervised steps to add numbers with written-out steps, from
solutions with wrong digits. Two warm-ups differ in what reinforcement learning then has to do:

python scripts/make_tiny_model.py --warm-up sharpen  --out data/models/carry-adder python
scripts/make_tiny_model.py --warm-up frontier --out data/models/carry-adder-frontier

One thread and one seed give the same weights on the same machine.
"""

import argparse
import json
import math
import shutil
import time
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from tokenizers import Regex, Tokenizer
from tokenizers.decoders import Fuse
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from torch.nn.functional import cross_entropy
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from parts.tiny_model.warm_ups import LEVELS, WARM_UPS, WarmUp, arithmetic, draw_examples
from rl_llm.records import Problem
from rl_llm.seeds import derive_seed

SPECIALS = ("<pad>", "<eos>", "<unk>")
SYMBOLS = (*"0123456789+= ", "<think>", "</think>", "<answer>", "</answer>")
BATCH_ROWS, ROWS_AT_ONCE = 64, 16
PEAK_LR, LR_WARMUP_STEPS = 2e-3, 50
SAMPLES_PER_PROBLEM, PROBLEMS_PER_LEVEL, GROUP_SIZE = 64, 40, 8
CARD_TEMPLATE = Path(__file__).parent / "parts" / "tiny_model" / "card.md"
HISTOGRAM_EDGES = (0.0, 0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 0.98, 1.0)


def make_tokenizer() -> PreTrainedTokenizerFast:
    """One token per character and per tag; tags are ordinary entries, so decoding keeps them."""
    vocabulary = {symbol: index for index, symbol in enumerate((*SPECIALS, *SYMBOLS))}
    backend = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = Split(Regex(r"</?think>|</?answer>|[\s\S]"), behavior="isolated")
    backend.decoder = Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        eos_token="<eos>",
        unk_token="<unk>",
        padding_side="left",
        model_max_length=256,
        clean_up_tokenization_spaces=False,
    )


def make_model(tokenizer: PreTrainedTokenizerFast, *, seed: int) -> LlamaForCausalLM:
    """Four layers, 128 wide, four heads of 32, with weights drawn from `seed`."""
    torch.manual_seed(derive_seed(seed, "weights"))
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=32,
        max_position_embeddings=256,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(
        do_sample=True, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    return model


def solution_loss(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    examples: Sequence[tuple[str, str]],
) -> tuple[torch.Tensor, int]:
    """Return the summed cross-entropy of the solutions in nats, and the number of their tokens.

    Rows are padded on the right, where a causal model does not look.
    """
    rows = [tokenizer.encode(prompt + solution + "<eos>") for prompt, solution in examples]
    longest = max(map(len, rows))
    token_ids_BT = torch.full((len(rows), longest), tokenizer.pad_token_id)
    targets_BT = torch.full((len(rows), longest), -100)
    for index, (row, (prompt, _)) in enumerate(zip(rows, examples, strict=True)):
        token_ids_BT[index, : len(row)] = torch.tensor(row)
        targets_BT[index, len(prompt) : len(row)] = torch.tensor(row[len(prompt) :])
    logits_BTV = model(input_ids=token_ids_BT[:, :-1], use_cache=False).logits
    targets_BT = targets_BT[:, 1:]
    loss = cross_entropy(logits_BTV.flatten(0, 1), targets_BT.flatten(), reduction="sum")
    return loss, int((targets_BT != -100).sum())


def warm_up_step(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    optimizer: torch.optim.Optimizer,
    examples: list[tuple[str, str]],
) -> float:
    """Take one step on a batch, in parts of similar length; return nats per solution token."""
    examples.sort(key=lambda example: len(example[0]) + len(example[1]))
    total_nats, total_tokens = 0.0, 0
    for start in range(0, len(examples), ROWS_AT_ONCE):
        loss, num_tokens = solution_loss(model, tokenizer, examples[start : start + ROWS_AT_ONCE])
        loss.backward()
        total_nats += loss.item()
        total_tokens += num_tokens
    for parameter in model.parameters():
        parameter.grad /= total_tokens
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    return total_nats / total_tokens


def learning_rate_factor(step: int, *, num_steps: int) -> float:
    """Return the share of the peak rate: a short linear rise, then half a cosine down to 0."""
    rise = min(1.0, (step + 1) / LR_WARMUP_STEPS)
    return rise * 0.5 * (1 + math.cos(math.pi * step / num_steps))


def train(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    warm_up: WarmUp,
    *,
    num_steps: int,
    seed: int,
) -> None:
    """Run the supervised warm-up and print the loss every 100 steps."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_LR)
    examples = draw_examples(warm_up, seed=seed)
    model.train()
    started_s = time.monotonic()
    for step in range(num_steps):
        for group in optimizer.param_groups:
            group["lr"] = PEAK_LR * learning_rate_factor(step, num_steps=num_steps)
        loss = warm_up_step(model, tokenizer, optimizer, list(islice(examples, BATCH_ROWS)))
        if step % 100 == 99 or step + 1 == num_steps:
            per_step_s = (time.monotonic() - started_s) / (step + 1)
            progress = f"{loss:.4f} nats/token  {per_step_s:.2f} s/step"
            print(f"step {step + 1}/{num_steps}  {progress}", flush=True)
    model.eval()


@torch.no_grad()
def correct_samples(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, problems: Sequence[Problem]
) -> np.ndarray:
    """Return which samples are correct, (problems, samples), for problems of one prompt length."""
    inputs = tokenizer([problem.prompt for problem in problems], return_tensors="pt")
    rows = model.generate(
        **inputs,
        do_sample=True,
        temperature=1.0,
        top_k=0,
        max_new_tokens=128,
        num_return_sequences=SAMPLES_PER_PROBLEM,
    )
    texts = tokenizer.decode(rows[:, inputs.input_ids.shape[1] :], skip_special_tokens=True)
    answers = [problem.answer for problem in problems for _ in range(SAMPLES_PER_PROBLEM)]
    correct = [
        text.partition("<answer>")[2].partition("</answer>")[0] == answer
        for text, answer in zip(texts, answers, strict=True)
    ]
    return np.array(correct).reshape(len(problems), SAMPLES_PER_PROBLEM)


def measure(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, *, seed: int
) -> dict[int, np.ndarray]:
    """Sample problems of the quickstart's pool; return correct samples (problems, samples) by
    level."""
    torch.manual_seed(derive_seed(seed, "measure"))
    correct_by_level = {}
    for level in LEVELS:
        pool = list(
            arithmetic.arithmetic(levels=[level], size=PROBLEMS_PER_LEVEL, split="train", seed=1)
        )
        parts = [
            correct_samples(model, tokenizer, pool[start : start + 4])
            for start in range(0, len(pool), 4)
        ]
        correct_by_level[level] = np.concatenate(parts)
        print(f"level {level}: pass rate {correct_by_level[level].mean():.3f}", flush=True)
    return correct_by_level


def informative_share(correct: np.ndarray) -> float:
    """Return the share of groups, cut from each problem's samples, with 0 < successes < size."""
    successes = correct.reshape(-1, GROUP_SIZE).sum(axis=1)
    return float(((successes > 0) & (successes < GROUP_SIZE)).mean())


def level_table(correct_by_level: dict[int, np.ndarray]) -> str:
    """Return pass rate and informative share per level, and over all levels, as markdown."""
    parts = {str(level): correct for level, correct in correct_by_level.items()}
    parts["all"] = np.concatenate(list(correct_by_level.values()))
    rows = [
        f"| {name} | {correct.mean():.3f} | {informative_share(correct):.2f} |"
        for name, correct in parts.items()
    ]
    title = f"| digits | pass rate | informative groups of {GROUP_SIZE} |"
    return "\n".join([title, "| --- | --- | --- |", *rows])


def histogram_table(correct_by_level: dict[int, np.ndarray]) -> str:
    """Return how many problems have a sampled pass rate in each interval, as markdown."""
    pass_rates = np.concatenate([c.mean(axis=1) for c in correct_by_level.values()])
    counts, _ = np.histogram(pass_rates, HISTOGRAM_EDGES)
    widest = max(counts)
    rows = [
        f"| {low:.2f} to {high:.2f} | {count} | `{'#' * round(30 * count / widest)}` |"
        for low, high, count in zip(HISTOGRAM_EDGES, HISTOGRAM_EDGES[1:], counts, strict=False)
    ]
    return "\n".join(["| pass rate | problems | |", "| --- | --- | --- |", *rows])


def card_text(
    warm_up: WarmUp,
    correct_by_level: dict[int, np.ndarray],
    *,
    name: str,
    options: str,
    num_steps: int,
    num_parameters: int,
) -> str:
    """Return the model card: what it is, how to make it again, and the measured pass rates."""
    return CARD_TEMPLATE.read_text(encoding="utf-8").format(
        name=name,
        num_parameters=num_parameters,
        num_symbols=len(SPECIALS) + len(SYMBOLS),
        purpose=warm_up.purpose,
        warm_up=warm_up.name,
        options=options,
        steps=num_steps,
        batch_rows=BATCH_ROWS,
        peak_lr=PEAK_LR,
        level_decay=warm_up.level_decay,
        rates=", ".join(map(str, warm_up.wrong_digit_rates)),
        confusions=confusions_text(warm_up),
        samples=SAMPLES_PER_PROBLEM,
        num_problems=sum(map(len, correct_by_level.values())),
        group_size=GROUP_SIZE,
        level_table=level_table(correct_by_level),
        histogram_table=histogram_table(correct_by_level),
    )


def confusions_text(warm_up: WarmUp) -> str:
    """Say which digit sums are confused; nothing where none are."""
    if not warm_up.confused_share:
        return ""
    low, high = warm_up.confusion_rates
    return (
        f"\nBeside that, about {warm_up.confused_share:.0%} of the 200 digit sums (left + right + "
        "carry) are confused:\neach of those is wrong at a rate of its own, evenly drawn between "
        f"{low} and {high}, always by the\nsame digit. What is confused has to be learnt sum by "
        "sum, and a problem is as hard as its sums."
    )


def save_tokenizer(tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write the tokenizer under the class name that every version of transformers knows."""
    tokenizer.save_pretrained(folder)
    config_file = folder / "tokenizer_config.json"
    config = json.loads(config_file.read_text(encoding="utf-8"))
    config["tokenizer_class"] = "PreTrainedTokenizerFast"
    config_file.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def replace_folder(draft: Path, out: Path) -> None:
    """Put a finished folder in the place of an older one."""
    old = out.with_name(f"{out.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if out.exists():
        out.rename(old)
    draft.rename(out)
    shutil.rmtree(old, ignore_errors=True)


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--warm-up", choices=sorted(WARM_UPS), required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder to write or replace")
    parser.add_argument("--steps", type=int, help="supervised steps; default: the warm-up's own")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of torch")
    return parser.parse_args()


def main() -> None:
    """Train, measure, and write model, tokenizer and card."""
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    warm_up, out, seed = WARM_UPS[arguments.warm_up], arguments.out, arguments.seed
    num_steps = arguments.steps or warm_up.steps
    tokenizer = make_tokenizer()
    model = make_model(tokenizer, seed=seed)
    print(f"{model.num_parameters():,} parameters, {num_steps} steps")
    train(model, tokenizer, warm_up, num_steps=num_steps, seed=seed)
    measured = measure(model, tokenizer, seed=seed)
    options = f" --steps {num_steps}" if num_steps != warm_up.steps else ""
    card = card_text(
        warm_up,
        measured,
        name=out.name,
        options=options + (f" --seed {seed}" if seed else ""),
        num_steps=num_steps,
        num_parameters=model.num_parameters(),
    )
    draft = out.with_name(f"{out.name}.draft")
    model.save_pretrained(draft)
    save_tokenizer(tokenizer, draft)
    (draft / "README.md").write_text(card, encoding="utf-8")
    replace_folder(draft, out)
    print(f"\n{level_table(measured)}\n\n{histogram_table(measured)}\n\nwritten to {out}")


if __name__ == "__main__":
    main()
