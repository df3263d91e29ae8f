"""The composition root: from a recipe to the parts that the loop drives."""

from contextlib import ExitStack
from typing import Any

from rl_llm import plugins
from rl_llm.algorithms import ALGORITHMS, Algorithm, fault_of
from rl_llm.cli.engines import build_engine
from rl_llm.cli.inputs import Data, Model
from rl_llm.config import KLSection, Recipe
from rl_llm.config.kl_faults import is_off
from rl_llm.curriculum import Rollouts, Scheduler, build_scheduler
from rl_llm.errors import ConfigError, PluginError
from rl_llm.kl import CONTROLLERS, Guarded, KLController
from rl_llm.policy import (
    PolicyEngine,
    Ranks,
    add_lora,
    fingerprint,
)
from rl_llm.policy.behaviour import check_correction
from rl_llm.records import Sampling
from rl_llm.rollout.engine import ways_to_fit
from rl_llm.seeds import derive_seed
from rl_llm.trainer import (
    Counters,
    Evaluator,
    Generation,
    Identity,
    Parts,
    RunFolder,
    Watcher,
    sample_problems,
)
from rl_llm.trainer.alarms import build_alarms

_ZERO_OR_ONE = (
    *("answer_tags", "choice_answer", "exact_answer", "math_answer", "numeric_answer"),
    "think_tags",
)
"""Shipped rewards without partial credit."""


def build_algorithm(recipe: Recipe) -> Algorithm:
    """Build `algorithm`, and refuse rollouts that it cannot learn from."""
    algorithm = _named_algorithm(recipe)
    rollout = recipe.rollout
    if algorithm.has_group_baseline and rollout.group_size < 2:
        raise ConfigError(
            f"rollout.group_size={rollout.group_size}: {algorithm.name} compares the "
            "completions of a group with each other, and one alone has advantage 0; use at least "
            "2, and usually 8"
        )
    if rollout.temperature == 0:
        raise ConfigError(
            "rollout.temperature=0 draws the likeliest tokens, so the same completion of a problem "
            "every time, and none is tried that could be better; use 1.0 to train (0 is for "
            "`rl-llm evaluate`)"
        )
    if algorithm.critic is None and rollout.group_size * rollout.problems_per_step < 2:
        raise ConfigError(
            f"rollout.group_size=1 with rollout.problems_per_step=1: {algorithm.name} compares the "
            "completions of a step with each other, and one alone has advantage 0; use more"
        )
    cache = recipe.algorithm.options.get("overlong_cache") or 0
    if cache > rollout.max_new_tokens:
        raise ConfigError(
            f"algorithm.overlong_cache={cache} is more than "
            f"rollout.max_new_tokens={rollout.max_new_tokens}, so that the shortest response is "
            "penalised for its length; use fewer tokens, or null for a fifth of the longest"
        )
    check_correction(rollout, algorithm, has_probes=recipe.curriculum.probe is not None)
    curriculum = recipe.curriculum
    has_no_gate = curriculum.gates is None and not algorithm.has_group_baseline
    if has_no_gate and curriculum.refill.max_rounds:
        raise ConfigError(
            f"curriculum.refill.max_rounds={curriculum.refill.max_rounds} with {algorithm.name!r}, "
            "which learns from all groups: none is dropped, so there is nothing to refill; use "
            "max_rounds 0, or name a gate in curriculum.gates"
        )
    return algorithm


def _named_algorithm(recipe: Recipe) -> Algorithm:
    built = plugins.build_named(recipe.algorithm, ALGORITHMS, path="algorithm")
    if not isinstance(built, Algorithm):
        raise PluginError(
            f"algorithm.name={recipe.algorithm.name!r} returned {built!r}; it must return an "
            "rl_llm.algorithms.Algorithm, such as dataclasses.replace(grpo(), token_loss=...)"
        )
    fault = fault_of(built)
    if fault is not None:
        raise PluginError(f"algorithm.name={recipe.algorithm.name!r}: {fault}")
    return built


def check_warmup(recipe: Recipe, algorithm: Algorithm) -> None:
    """Refuse a run in which the critic learns alone to the end, so that the policy never moves."""
    warmup = 0 if algorithm.critic is None else algorithm.critic.warmup_steps
    steps = recipe.run.steps
    if warmup >= steps:
        raise ConfigError(
            f"algorithm.critic_warmup_steps={warmup} with run.steps={steps}: the critic learns "
            f"alone to the end of the run, and the policy never moves; use at most {steps - 1}, or "
            f"run.steps {warmup + 1} or more"
        )


def algorithm_notes(recipe: Recipe, algorithm: Algorithm) -> list[str]:
    """Return what a person should know of an algorithm in this recipe before it runs."""
    return [
        *_updates_notes(recipe, algorithm),
        *_gates_notes(recipe, algorithm),
        *_penalty_notes(recipe.kl),
    ]


def _updates_notes(recipe: Recipe, algorithm: Algorithm) -> list[str]:
    optim = recipe.optim
    if algorithm.has_ratio or optim.updates_per_batch * optim.epochs == 1:
        return []
    return [
        f"algorithm {algorithm.name!r} with optim.updates_per_batch={optim.updates_per_batch} and "
        f"optim.epochs={optim.epochs}: its loss has no ratio, so updates after a step's first take "
        "tokens for the moved policy's own, which biases their gradients; use 1 of both, or an "
        "algorithm with a ratio, such as reinforce_pp, or ppo with a critic"
    ]


def _gates_notes(recipe: Recipe, algorithm: Algorithm) -> list[str]:
    if algorithm.has_group_baseline:
        return []
    names = [gate.name for gate in recipe.curriculum.gates or ()]
    notes = []
    if "informative" in names:
        notes.append(
            "curriculum.gates: 'informative' drops groups of equal rewards, from which "
            f"{algorithm.name!r} would learn too; curriculum.gates=null leaves them in"
        )
    if recipe.curriculum.probe is not None:
        notes.append(
            "curriculum.probe drops problems whose first completions are all correct or all "
            f"wrong, from which {algorithm.name!r} would learn too; curriculum.probe=null leaves "
            "them in"
        )
    return notes


def _penalty_notes(kl: KLSection) -> list[str]:
    said = {
        "kl.estimator": kl.estimator if kl.estimator != "k2" else None,
        "kl.placement": kl.placement if kl.placement != "loss" else None,
        "kl.ceiling": kl.ceiling,
    }
    given = [f"{path}={value!r}" for path, value in said.items() if value is not None]
    if not (given and is_off(kl)):
        return []
    return [
        f"{' and '.join(given)} with kl.controller 'constant' and beta 0: there is no penalty; set "
        "kl.controller.beta above 0 to have one"
    ]


def check_context(recipe: Recipe, data: Data, config: Any) -> None:
    """Refuse prompts and completions that together exceed the positions that a model's
    configuration says it has."""
    context = getattr(config, "max_position_embeddings", None)
    new, longest = recipe.rollout.max_new_tokens, data.longest_prompt_tokens
    if context is not None and longest + new > context:
        raise ConfigError(
            f"rollout.max_new_tokens={new} with the longest prompt ({longest} tokens) exceeds the "
            f"model's {context} positions; " + ways_to_fit(new, longest, room=context)
        )


def check_pool(recipe: Recipe, data: Data) -> None:
    """Refuse to draw more training problems at once than there are: no step would be full."""
    num_problems, probe = len(data.train.problems), recipe.curriculum.probe
    asked = {
        "rollout.problems_per_step": recipe.rollout.problems_per_step,
        "eval.train_problems": recipe.eval.train_problems,
    }
    if probe is not None:
        asked["curriculum.probe.problems"] = probe.problems
    held = f"{num_problems} problems in data.train{' at a time' if data.streams else ''}"
    faults = [
        f"{path}={count} with {held}: none is drawn twice at once; use at most {num_problems}, or "
        "add problems"
        for path, count in asked.items()
        if count > num_problems
    ]
    if faults:
        raise ConfigError("\n  ".join(faults))


def build_evaluator(
    recipe: Recipe, data: Data, generation: Generation, *, num_train_problems: int = 0
) -> Evaluator:
    """Build the evaluator on the held-out pool, at the training temperature."""
    return Evaluator(
        data.held_out.problems,
        generation,
        sampling=sampling_of(recipe),
        samples_per_problem=recipe.eval.samples_per_problem,
        seed=recipe.run.seed,
        train_problems=sample_problems(
            data.train.problems, num_train_problems, seed=recipe.run.seed
        ),
    )


def sampling_of(recipe: Recipe) -> Sampling:
    """Return how completions are drawn, in training and in evaluation."""
    return Sampling(
        temperature=recipe.rollout.temperature, max_new_tokens=recipe.rollout.max_new_tokens
    )


def make_scheduler(recipe: Recipe, data: Data) -> Scheduler:
    """Build the scheduler over the training pool; it needs no model."""
    section, algorithm = recipe.curriculum, build_algorithm(recipe)
    if section.gates is None and not algorithm.has_group_baseline:
        section = section.model_copy(update={"gates": []})  # Groups of equal rewards teach, too.
    return build_scheduler(
        section,
        problems=data.train.problems,
        streams=data.streams,
        rollouts=Rollouts(
            num_problems=recipe.rollout.problems_per_step,
            group_size=recipe.rollout.group_size,
            sampling=sampling_of(recipe),
            last_step=recipe.run.steps,
            divides_by_group=algorithm.divides_by_group,
            needs_mixed=_needs_mixed(recipe, algorithm),
        ),
        seed=recipe.run.seed,
    )


def _needs_mixed(recipe: Recipe, algorithm: Algorithm) -> bool:
    """Say whether groups that are all correct or all wrong have equal totals, and so no advantage:
    no second reward, partial credit or penalty for length tells their completions apart."""
    rewards = recipe.rewards
    only_one = (
        len(rewards) == 1 and rewards[0].use in _ZERO_OR_ONE and 0 < rewards[0].correct_at <= 1
    )
    truncated = recipe.algorithm.options.get("truncated")
    may_penalise = algorithm.trains_truncated and truncated != "train"
    is_known = recipe.algorithm.name in ALGORITHMS
    return is_known and algorithm.has_group_baseline and only_one and not may_penalise


def build_controller(recipe: Recipe) -> KLController:
    """Build the KL controller between its bounds."""
    kl = recipe.kl
    controller = plugins.build_named(
        kl.controller,
        CONTROLLERS,
        path="kl.controller",
        methods=("observe", "state_dict", "load_state_dict"),
        attributes=("beta", "needs_reference"),
        offered={"total_steps": recipe.run.steps},
    )
    try:
        return Guarded(controller, floor=kl.floor, ceiling=kl.ceiling, spike=kl.spike)
    except ConfigError as error:
        raise ConfigError(f"kl: {error}") from None


def build_parts(
    recipe: Recipe, model: Model, data: Data, ranks: Ranks, *, folder: RunFolder, watcher: Watcher
) -> Parts:
    """Put everything together; nothing is written, and no sink is open yet. Where something fails,
    the engine is closed."""
    check_context(recipe, data, model.base.config)
    check_pool(recipe, data)
    algorithm = build_algorithm(recipe)
    scheduler, controller = make_scheduler(recipe, data), build_controller(recipe)
    with ExitStack() as undo:
        engine = build_engine(recipe, model, ranks, folder=folder)  # May take a minute.
        undo.callback(engine.close)
        generation = Generation(engine, data.rubric, ranks)
        parts = Parts(
            recipe=recipe,
            folder=folder,
            identity=Identity(
                recipe=recipe.model_dump(), model_fingerprint=fingerprint(model.base)
            ),
            algorithm=algorithm,
            scheduler=scheduler,
            generation=generation,
            reward_weights={reward.name: reward.weight for reward in data.rubric.rewards},
            evaluator=build_evaluator(
                recipe, data, generation, num_train_problems=recipe.eval.train_problems
            ),
            engine=engine,
            policy=_build_policy(recipe, model, algorithm, ranks),
            kl=controller,
            alarms=build_alarms(
                recipe,
                side_rewards=[r.name for r in data.rubric.rewards if r.channel != "correctness"],
            ),
            ranks=ranks,
            counters=Counters(),
            sinks=[],
            draw_log=None,
            evaluation_log=None,
            watcher=watcher,
        )
        undo.pop_all()
    return parts


def _build_policy(recipe: Recipe, model: Model, algorithm: Algorithm, ranks: Ranks) -> PolicyEngine:
    seed = recipe.run.seed
    adapted = add_lora(model.base, recipe.lora, seed=derive_seed(seed, "lora"))
    adapted.peft_config["default"].base_model_name_or_path = recipe.model.path
    return PolicyEngine(
        adapted,
        algorithm=algorithm,
        optim=recipe.optim,
        kl=recipe.kl,
        rollout=recipe.rollout,
        pad_id=model.pad_id,
        ranks=ranks,
        seed=seed,
    )
