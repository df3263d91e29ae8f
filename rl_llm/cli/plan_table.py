"""How a plan and an estimate look."""

from rich.table import Table

from rl_llm.cli.estimate import Estimate
from rl_llm.cli.launch import Launch
from rl_llm.cli.plan import Plan, most_of_step
from rl_llm.config import Recipe
from rl_llm.config.rollout import EngineName

_TRANSFORMERS_SIZES = ("copies for rollouts, at most", "key-value cache, at most")
_ENGINE_SIZES: dict[EngineName, tuple[str, str]] = {
    "auto": _TRANSFORMERS_SIZES,
    "transformers": _TRANSFORMERS_SIZES,
    "vllm": ("vLLM's copy of the model, and one that is published", "what vLLM is given to fill"),
    "vllm_server": _TRANSFORMERS_SIZES,
}


def step_table(recipe: Recipe, plan: Plan) -> Table:
    """Return what a step comes to, of all processes and of one."""
    table = Table(title=f"one step of {recipe.run.name}", show_header=False)
    included = "refills" if recipe.curriculum.probe is None else "probes"
    most = most_of_step(recipe)
    table.add_row(f"completions, {included} included, at most", f"{most:,}")
    table.add_row("sampled tokens, at most", f"{most * recipe.rollout.max_new_tokens:,}")
    table.add_row("updates, at most", f"{plan.updates:,}")
    table.add_section()
    if plan.num_ranks > 1:
        table.add_row(f"of this, one of {plan.num_ranks:,} processes has", "")
    for label, value in _rows(plan):
        table.add_row(label, value)
    return table


def _rows(plan: Plan) -> list[tuple[str, str]]:
    return [
        ("problems of the first call of the engine", str(plan.problems)),
        ("completions of a call, at most", f"{plan.call_completions:,}"),
        ("groups of an update, of equal lengths", str(plan.groups)),
        ("sequences of an update, at most", f"{plan.sequences:,}"),
        ("micro-batches of an update, longest sequences", f"{plan.micro_batches:,}"),
        ("passes of a step with gradient, at most", f"{plan.passes_with_gradient:,}"),
        ("passes of a step without, at most", f"{plan.passes_without:,}"),
    ]


def memory_table(recipe: Recipe, found: Estimate, launch: Launch) -> Table:
    """Return what one process holds in memory."""
    stage = f", ZeRO-{launch.stage}" if launch.stage else ""
    whose = f"one of {launch.num_ranks:,} processes{stage}"
    title = "memory" if launch.num_ranks == 1 and not stage else f"memory of {whose}"
    table = Table(title=title, show_header=False)
    for label, size in _sizes(found, recipe.rollout.engine):
        table.add_row(label, _size_text(size))
    return table


def share_lines(found: Estimate) -> list[str]:
    """Say how the last row comes about where vLLM has a share of a GPU of unknown size."""
    engine = found.engine
    if not engine.share:
        return []
    when = "while it generates, not while the policy learns" if engine.takes_turns else "all along"
    return [
        f"vLLM has rollout.vllm.memory_fraction={engine.share:g} of the GPU {when}: "
        "the last row is the least GPU on which both find room"
    ]


def _size_text(size: int) -> str:
    return f"{size / 2**30:,.1f} GiB" if size >= 2**30 else f"{size / 2**20:,.1f} MiB"


def _sizes(found: Estimate, engine: EngineName) -> list[tuple[str, int]]:
    """Return what is held, what is nothing left out, but for what every run has."""
    trainer = found.trainer
    copy, cache = _ENGINE_SIZES[engine]
    whose = "a GPU" if found.engine.share else "a process"
    rough = "by a rule of thumb" if found.is_rule_of_thumb else "at most"
    optional = {
        "critic's adapter and head": trainer.critic,
        "reference's adapter": trainer.reference,
        "weights put together for a pass, at most": trainer.gathered,
        copy: found.engine.copies,
        cache: found.engine.cache,
        "vLLM's copy of the model, in its share": found.engine.within,
    }
    return [
        ("base model", trainer.base),
        ("adapter", trainer.adapter),
        *((label, size) for label, size in optional.items() if size),
        ("gradient of what is trained", trainer.gradient),
        ("optimiser", trainer.optimiser),
        (f"activations of a micro-batch, {rough}", found.activations),
        (f"memory {whose} needs, about", found.total),
        *([("beside it, on the CPU", trainer.offloaded)] if trainer.offloaded else []),
    ]
