"""What a checkpoint belongs to: a recipe and a model, and what of the recipe may change."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rl_llm.config import differences, with_defaults
from rl_llm.errors import CheckpointError, ConfigError

_MEMORY_OF_VLLM = tuple(
    f"rollout.vllm.{key}" for key in ("memory_fraction", "kv_cache_gib", "sleep", "compile")
)


@dataclass(frozen=True, kw_only=True)
class Identity:
    """What a checkpoint belongs to: the resolved recipe, and the fingerprint of the base model."""

    recipe: Mapping[str, Any]
    model_fingerprint: str


def check_identity(checkpoint: Path, state: Mapping[str, Any], identity: Identity) -> None:
    """Refuse to resume another recipe or another model, and show the difference.

    Only the path of the same model (`model.path`), `run.name`, `run.output_dir`,
    `run.timeout_s`, `scoring.workers`, `tracking`, `hub`, `alarms`, where servers are found
    (`rollout.servers`), what memory vLLM takes (`rollout.vllm.memory_fraction`, `kv_cache_gib`,
    `sleep` and `compile`), and, where nothing is scheduled over it and nothing learnt from its
    end, `run.steps` may differ. Keys that the checkpoint was written before count with their
    defaults.
    """
    may_differ = {
        "run.name",
        "run.output_dir",
        "run.timeout_s",
        "tracking",
        "scoring.workers",
        *_MEMORY_OF_VLLM,
    }
    is_same_model = state["model_fingerprint"] == identity.model_fingerprint
    if is_same_model:
        may_differ.add("model.path")
    recipe, refusal = _filled(state["recipe"])
    # Without counters nothing was saved: a run starts over, and has learnt from no evaluation.
    needs_length = [
        *_needs_length(identity.recipe),
        *_learnt_from_the_end(recipe, state.get("counters", {})),
    ]
    if not needs_length:
        may_differ.add("run.steps")
    found = differences(recipe, identity.recipe)
    changes = [
        f"  {path}: {there} in the checkpoint, {here} in the recipe"
        for path, (there, here) in found.items()
        if path not in may_differ and not path.startswith(("rollout.servers.", "hub.", "alarms."))
    ]
    if "run.steps" in found and "run.steps" not in may_differ:
        changes.append(f"  (run.steps may not change here: {'; '.join(needs_length)})")
    if changes:
        changes += refusal
        raise CheckpointError(
            f"{checkpoint} belongs to another recipe:\n" + "\n".join(changes) + "\n"
            "give this recipe another run.name, or undo the difference"
        )
    if not is_same_model:
        raise CheckpointError(
            f"{checkpoint} was trained on another model: fingerprint {state['model_fingerprint']}, "
            f"and model.path={identity.recipe['model']['path']!r} has "
            f"{identity.model_fingerprint}; put the first model back, or give the run another "
            "run.name"
        )


def _filled(recipe: Mapping[str, Any]) -> tuple[Mapping[str, Any], list[str]]:
    """Return a saved recipe with the defaults of keys that it lacks; where the schema refuses it,
    the recipe as it is, and the line that says so."""
    try:
        return with_defaults(recipe), []
    except ConfigError as error:
        return recipe, [f"  (defaults are not filled in: this version refuses {error})"]


def _needs_length(recipe: Mapping[str, Any]) -> list[str]:
    """Say why a run's length shows before its end, a reason each; nothing where it does not."""
    schedule, controller = recipe["optim"]["schedule"], recipe["kl"]["controller"]
    needs_no_length = {"constant", "target", "ppo_penalty", "accuracy"}
    is_short_ramp = (
        controller["name"] in ("linear", "cosine") and controller.get("over") is not None
    )
    staleness = recipe["rollout"]["max_staleness"]
    reasons = {
        f"optim.schedule={schedule} falls over the whole run": schedule != "constant",
        f"kl.controller {controller['name']} moves beta over the whole run": (
            controller["name"] not in needs_no_length and not is_short_ramp
        ),
        "with curriculum.probe the last step finishes what waits": (
            recipe["curriculum"]["probe"] is not None
        ),
        f"with rollout.max_staleness={staleness} the last steps generate nothing ahead": (
            staleness > 0
        ),
    }
    return [reason for reason, holds in reasons.items() if holds]


def _learnt_from_the_end(recipe: Mapping[str, Any], counters: Mapping[str, Any]) -> list[str]:
    """Say what took note, behind a run's last step, of an evaluation that a longer run does not
    make; nothing where `eval.every` asks for it too, or the checkpoint is an earlier one."""
    step, every = counters.get("step", 0), recipe["eval"]["every"]
    if step != recipe["run"]["steps"] or step % every == 0:
        return []
    patience = recipe["kl"]["reference"]["refresh_on_stagnation"]
    learners = {
        "curriculum.learn_from_eval": recipe["curriculum"]["learn_from_eval"],
        f"kl.reference.refresh_on_stagnation={patience}": patience is not None,
        f"eval.stop_when={recipe['eval']['stop_when']}": counters.get("finished", False),
    }
    return [
        f"{learner} took note of the evaluation behind step {step}, the last one here, which a "
        f"longer run with eval.every={every} does not make: go on from an earlier checkpoint by "
        "--resume, or from a run whose steps are a multiple of eval.every"
        for learner, holds in learners.items()
        if holds
    ]
