"""What the `kl` section of a recipe may not say: contradictions, and options that nothing reads.

Built-in controllers are judged by their names; what one of your own reads is not known here.
"""

from collections.abc import Iterator

from rl_llm.config.kl import KLSection, ReferenceSection

BLIND_CONTROLLERS = frozenset(
    {"constant", "grpo_d", "grpo_d_rising", "linear", "cosine", "accuracy"}
)
"""Built-in controllers whose beta no divergence moves."""

USUAL_DECAY = ReferenceSection().decay


def kl_faults(
    kl: KLSection,
    *,
    updates_per_step: int,
    has_held_out: bool,
    num_steps: int,
    eval_every: int,
) -> Iterator[str]:
    """Yield what is wrong, each with the way out; `updates_per_step` counts those over all
    epochs."""
    yield from _penalty_faults(kl)
    yield from _constant_faults(kl)
    yield from _old_policy_faults(kl, takes_several=updates_per_step > 1)
    yield from _unread_reference_faults(kl)
    yield from _refresh_faults(kl.reference, has_held_out=has_held_out)
    if kl.reference.mode == "snapshot":
        yield from _late_refresh_faults(
            kl.reference, num_steps=num_steps, eval_every=eval_every if has_held_out else None
        )


def is_off(kl: KLSection) -> bool:
    """Say whether beta is 0 for ever, so that there is no penalty and no reference."""
    return kl.controller.name == "constant" and kl.controller.options.get("beta", 0) == 0


def _penalty_faults(kl: KLSection) -> Iterator[str]:
    if kl.used_estimator == "k1" and kl.placement == "loss":
        yield (
            "kl.estimator='k1' differentiated in the loss has an expected gradient of zero: it "
            "adds noise and no pull towards the reference; use k2, or k3 as GRPO publishes it, or "
            "kl.placement reward"
        )
    if kl.used_estimator != "k1" and kl.placement == "reward":
        yield (
            f"kl.estimator={kl.used_estimator!r} taken from the rewards hardly pulls towards the "
            "reference: its gradient nearly cancels near it; use k1, or kl.placement loss"
        )
    if kl.ceiling is not None and kl.floor > kl.ceiling:
        yield f"kl.floor={kl.floor} is above kl.ceiling={kl.ceiling}; swap them"
    if kl.spike is not None and kl.controller.name in BLIND_CONTROLLERS:
        yield (
            f"kl.spike={kl.spike} with kl.controller {kl.controller.name!r}: it bounds the "
            "divergence that a controller sees, and this one looks at none; leave kl.spike out, or "
            "use the controller target"
        )


def _constant_faults(kl: KLSection) -> Iterator[str]:
    beta = kl.controller.options.get("beta", 0)
    if kl.controller.name != "constant" or not isinstance(beta, int | float):
        return
    over = kl.ceiling is not None and beta > kl.ceiling
    under = 0 < beta < kl.floor
    if over or under:
        name, bound = ("kl.ceiling", kl.ceiling) if over else ("kl.floor", kl.floor)
        yield (
            f"kl.controller.beta={beta} with {name}={bound}: the bound overrides a constant beta "
            f"in every step; set beta to {bound}, or leave {name} out"
        )


def _old_policy_faults(kl: KLSection, *, takes_several: bool) -> Iterator[str]:
    way_out = "set optim.updates_per_batch or optim.epochs to 2 or more"
    if kl.against == "old" and not takes_several:
        yield (
            "kl.against='old' with one update a step: the policy that the update starts from is "
            f"the policy itself, and the penalty is 0; {way_out}, or kl.against ref"
        )
    if kl.against == "old" and is_off(kl):
        yield (
            "kl.against='old' with kl.controller 'constant' and beta 0: there is no penalty to be "
            "against anything; set kl.controller.beta above 0, or leave kl.against out "
            "(kl.stop_at_old needs neither)"
        )
    if kl.against == "old" and kl.placement == "reward":
        yield (
            "kl.against='old' with kl.placement='reward': rewards are charged before the first "
            "update, when that divergence is 0; use kl.placement loss"
        )
    if kl.stop_at_old is not None and not takes_several:
        yield f"kl.stop_at_old={kl.stop_at_old} has no later update to leave out; {way_out}"
    if kl.controller.name == "ppo_penalty" and kl.against != "old":
        yield (
            "kl.controller 'ppo_penalty' steers the divergence from the policy that an update "
            f"starts from; set kl.against to old{'' if takes_several else f', and {way_out}'}"
        )


def _unread_reference_faults(kl: KLSection) -> Iterator[str]:
    mode, decay = kl.reference.mode, kl.reference.decay
    if mode != "base" and (kl.against == "old" or is_off(kl)):
        why, way_out = (
            ("kl.against='old'", "kl.against ref")
            if kl.against == "old"
            else ("kl.controller 'constant' and beta 0", "a beta above 0")
        )
        harm = ", and each refresh forgets the optimiser's moments" if mode == "snapshot" else ""
        yield (
            f"kl.reference.mode={mode!r} with {why}: no reference is ever computed{harm}; use "
            f"kl.reference.mode base, or {way_out}"
        )
    if mode != "ema" and decay != USUAL_DECAY:
        yield (
            f"kl.reference.decay={decay} with kl.reference.mode={mode!r}: only a moving average "
            "decays; set kl.reference.mode to ema, or leave decay out"
        )


def _refresh_faults(reference: ReferenceSection, *, has_held_out: bool) -> Iterator[str]:
    refreshes = {
        "refresh_every": reference.refresh_every,
        "refresh_on_stagnation": reference.refresh_on_stagnation,
    }
    given = [f"kl.reference.{key}={value}" for key, value in refreshes.items() if value is not None]
    if given and reference.mode != "snapshot":
        yield (
            f"{given[0]} with kl.reference.mode={reference.mode!r}: only a snapshot is refreshed; "
            "set kl.reference.mode to snapshot"
        )
    if reference.mode == "snapshot" and not given:
        yield (
            "kl.reference.mode='snapshot' is never refreshed, and so stays the base; set "
            "kl.reference.refresh_every or refresh_on_stagnation, or use mode base"
        )
    if reference.refresh_on_stagnation is not None and not has_held_out:
        yield (
            f"kl.reference.refresh_on_stagnation={reference.refresh_on_stagnation} watches the "
            "held-out pass rate; add a source under data.eval"
        )


def _late_refresh_faults(
    reference: ReferenceSection, *, num_steps: int, eval_every: int | None
) -> Iterator[str]:
    """Yield refreshes that come behind the last step; evaluations before the first step are the
    best so far, and what one asks for comes behind the next step."""
    every, patience = reference.refresh_every, reference.refresh_on_stagnation
    if every is not None and every >= num_steps:
        yield (
            f"kl.reference.refresh_every={every} with run.steps={num_steps}: the reference is "
            "never refreshed while anything is learnt; use a lower refresh_every, or mode base"
        )
    if patience is not None and eval_every is not None and patience * eval_every >= num_steps:
        yield (
            f"kl.reference.refresh_on_stagnation={patience} with eval.every={eval_every} and "
            f"run.steps={num_steps}: so many evaluations are never over before the last step; use "
            "a lower one of the two, or mode base"
        )
