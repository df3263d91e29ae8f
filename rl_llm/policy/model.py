"""The frozen base model, its tokenizer, and the adapter that is trained on it."""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import SafetensorError
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from rl_llm.config.sections import LoraSection
from rl_llm.errors import ModelError, nearest
from rl_llm.plugins import model_place
from rl_llm.policy.fused_lora import use_fused_layers


def model_location(path: str) -> str:
    """Return a folder that exists, or a hub name; a path that looks local and is missing is an
    error."""
    place = model_place(path)
    if place is None:
        raise ModelError(
            f"model.path={path!r} is not a folder (looked from {Path.cwd()}); give the folder of "
            "a Hugging Face model, or a hub name such as Qwen/Qwen2.5-1.5B-Instruct"
        )
    return place


def load_base(path: str, *, dtype: str, device: torch.device | str = "cpu") -> Any:
    """Load a causal language model from a local folder or the hub, frozen and in evaluation mode.

    Raises `ModelError` when there is none, or it cannot be read.
    """
    location = model_location(path)
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(location, dtype=getattr(torch, dtype))
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise ModelError(
            f"model.path={path!r} holds no causal language model that transformers can load: "
            f"{error}"
        ) from None
    model.requires_grad_(False)
    return model.to(device).eval()


def load_tokenizer(path: str, *, chat_template: str | None = None) -> PreTrainedTokenizerBase:
    """Load the tokenizer that lies beside a model; raises `ModelError` when there is none.

    `chat_template` is a Jinja template or the path of a file with one. It takes the place of all
    the tokenizer's own, also where the tokenizer is saved; None keeps those.
    """
    location = model_location(path)
    has_files = not Path(location).is_dir() or any(
        (Path(location) / name).is_file()
        for name in ("tokenizer.json", "tokenizer.model", "vocab.json", "tokenizer_config.json")
    )
    if not has_files:
        raise ModelError(
            f"model.path={path!r} has no tokenizer (no tokenizer.json, tokenizer.model or "
            f"vocab.json in {location}); save one there with "
            f"tokenizer.save_pretrained({str(location)!r})"
        )
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(location)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"model.path={path!r}: its tokenizer cannot be loaded: {error}") from None
    if chat_template is not None:
        tokenizer.chat_template = _read_template(chat_template) or tokenizer.chat_template
    return tokenizer


def _read_template(chat_template: str) -> str:
    if "{" in chat_template:
        return chat_template
    file = Path(chat_template).expanduser()
    if not file.is_file():
        raise ModelError(
            f"model.chat_template={chat_template!r} is neither a Jinja template nor a file; "
            "write the template itself, or the path of a file that holds it"
        )
    return file.read_text(encoding="utf-8")


def stop_token_ids(model: Any, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the ids that end a completion: the tokenizer's and the generation config's."""
    generation = getattr(model, "generation_config", None)
    configured = getattr(generation, "eos_token_id", None)
    ids = configured if isinstance(configured, list) else [configured]
    found = {int(i) for i in (*ids, tokenizer.eos_token_id) if i is not None}
    if not found:
        raise ModelError(
            f"the model at {tokenizer.name_or_path!r} names no end-of-sequence token, so "
            "completions would never stop; set eos_token in its tokenizer, or eos_token_id in its "
            "generation_config.json"
        )
    return sorted(found)


def add_lora(base: Any, section: LoraSection, *, seed: int) -> PeftModel:
    """Put a trainable LoRA adapter on the base, in place; its output starts as the base's own."""
    config = LoraConfig(
        r=section.rank,
        lora_alpha=section.alpha,  # type: ignore[arg-type] # peft takes any number, and says int
        target_modules=section.targets,
        lora_dropout=0.0,
        task_type="CAUSAL_LM",
    )
    _check_targets(base, section.targets)
    use_fused_layers(config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            model = get_peft_model(base, config)
        except ValueError as error:
            raise ModelError(
                f"lora.targets={section.targets!r} does not fit the model: "
                f"{_pattern_hint(base, section.targets) or error}"
            ) from None
    assert isinstance(model, PeftModel)
    return model.eval()


def _check_targets(base: nn.Module, targets: str | list[str]) -> None:
    """Raise `ModelError` for the name of a module that the model has nowhere: PEFT passes over one
    as long as another fits."""
    if isinstance(targets, str):
        return  # "all-linear", or a pattern, which PEFT refuses where it fits nothing.
    names = [name for name, _ in base.named_modules()]
    missing = [t for t in targets if not any(f".{name}".endswith(f".{t}") for name in names)]
    if missing:
        linear = {n.rpartition(".")[2] for n, m in base.named_modules() if isinstance(m, nn.Linear)}
        raise ModelError(
            f"lora.targets={targets!r}: the model has no module {missing[0]!r}"
            f"{nearest(missing[0], linear - {'lm_head'})}; or set lora.targets=all-linear"
        )


def _pattern_hint(base: nn.Module, targets: str | list[str]) -> str:
    """Return what to write where a name stands for a pattern; empty where none does."""
    names = {name.rpartition(".")[2] for name, _ in base.named_modules()}
    if targets not in names:
        return ""
    return f"text is a pattern over whole names of modules; to name modules, write [{targets}]"


def fingerprint(base: nn.Module) -> str:
    """Return 16 hex digits that change when a weight does: a hash over all of them."""
    digest = hashlib.sha256()
    for name, parameter in sorted(base.named_parameters()):
        digest.update(json.dumps([name, list(parameter.shape), str(parameter.dtype)]).encode())
        flat = parameter.detach().contiguous().reshape(-1).view(torch.uint8)
        digest.update(flat.cpu().numpy().tobytes())
    return digest.hexdigest()[:16]
