"""What is built of a recipe follows what the recipe says."""

from types import SimpleNamespace

import pytest

from rl_llm.algorithms import ALGORITHMS
from rl_llm.cli import parts
from rl_llm.cli.inputs import load_data, load_model
from rl_llm.cli.parts import algorithm_notes, build_algorithm, build_controller, check_warmup
from rl_llm.cli.progress import SilentWatcher
from rl_llm.config import parse_recipe
from rl_llm.errors import ConfigError, ModelError, PluginError
from rl_llm.kl import KLFacts
from rl_llm.policy import Ranks
from rl_llm.trainer import RunFolder

SMALL_SOURCE = {"use": "arithmetic", "levels": [3], "size": 20, "split": "train", "seed": 1}


def recipe(**sections):
    smallest = {
        "run": {"name": "a", "steps": 100},
        "model": {"path": "m"},
        "data": {"train": [{"use": "arithmetic", "levels": [1]}]},
        "rewards": [{"use": "exact_answer"}],
    }
    return parse_recipe(smallest | sections, where="test")


def beta_after(kl, *nats):
    """Return beta before the first update, or after updates of these nats per token."""
    controller = build_controller(recipe(kl=kl))
    for step, each in enumerate(nats, start=1):
        controller.observe(
            KLFacts(
                ref_nats_per_token=each,
                ref_nats_per_response=each,
                old_nats_per_token=0.0,
                accuracy=0.5,
                step=step,
                total_steps=100,
            )
        )
    return controller.beta


@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_likeliest_token_every_time_is_nothing_to_learn_from(name):
    greedy = recipe(algorithm={"name": name}, rollout={"temperature": 0.0})
    with pytest.raises(ConfigError, match=r"rollout\.temperature=0 .* use 1\.0 to train"):
        build_algorithm(greedy)
    assert build_algorithm(recipe(algorithm={"name": name})).name == name


@pytest.mark.parametrize("name", ALGORITHMS)
def test_algorithms_without_a_ratio_are_told_of_where_there_are_several_updates(name):
    algorithm = build_algorithm(recipe(algorithm={"name": name}))
    once, several = recipe(), (recipe(optim={"epochs": 2}), recipe(optim={"updates_per_batch": 2}))
    assert algorithm_notes(once, algorithm) == []
    for each in several:
        assert bool(algorithm_notes(each, algorithm)) == (name in ("reinforce", "a2c"))


@pytest.mark.parametrize("name", ALGORITHMS)
def test_probes_that_older_weights_drew_need_a_ratio_or_a_correction(name):
    probed = {"probe": {"completions": 2, "problems": 4}}
    corrected = recipe(
        algorithm={"name": name}, curriculum=probed, rollout={"correction": {"name": "tis"}}
    )
    assert build_algorithm(corrected).name == name
    plain = recipe(algorithm={"name": name}, curriculum=probed)
    if name in ("reinforce", "a2c"):
        with pytest.raises(ConfigError, match=r"curriculum\.probe with rollout\.correction='none'"):
            build_algorithm(plain)
    else:
        assert build_algorithm(plain).name == name


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_gate_that_drops_what_the_algorithm_would_learn_from_is_told_of(name):
    algorithm = build_algorithm(recipe(algorithm={"name": name}))
    compares_groups = name in ("grpo", "dr_grpo", "dapo", "gspo", "cispo", "rloo")
    asked = recipe(curriculum={"gates": [{"name": "range"}, {"name": "informative"}]})
    assert bool(algorithm_notes(asked, algorithm)) != compares_groups
    for gates in (None, [], [{"name": "range"}]):
        assert algorithm_notes(recipe(curriculum={"gates": gates}), algorithm) == []
    probed = recipe(curriculum={"probe": {"completions": 2, "problems": 4}})
    assert bool(algorithm_notes(probed, algorithm)) != compares_groups


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_refill_where_no_group_is_dropped_is_refused(name):
    def build(**curriculum):
        asked = recipe(
            algorithm={"name": name}, curriculum={"refill": {"max_rounds": 3}} | curriculum
        )
        return build_algorithm(asked)

    assert build(gates=[{"name": "informative"}]).name == name
    if name in ("grpo", "dr_grpo", "dapo", "gspo", "cispo", "rloo"):
        assert build().name == name
    else:
        with pytest.raises(ConfigError, match=f"max_rounds=3 with '{name}', which learns from all"):
            build()


@pytest.mark.parametrize(
    ("said", "named"),
    [
        ({"estimator": "k3"}, "kl.estimator='k3'"),
        ({"estimator": "k1", "placement": "reward"}, "kl.estimator='k1' and kl.placement='reward'"),
        ({"ceiling": 0.5}, "kl.ceiling=0.5"),
        ({"estimator": "k2", "placement": "loss"}, None),
    ],
)
def test_what_only_a_penalty_reads_is_told_of_where_there_is_none(said, named):
    def notes(kl):
        asked = recipe(kl=kl)
        return algorithm_notes(asked, build_algorithm(asked))

    told = f"{named} with kl.controller 'constant' and beta 0: there is no penalty; "
    assert [note[: len(told)] for note in notes(said)] == ([told] if named else [])
    assert notes(said | {"controller": {"name": "constant", "beta": 0.1}}) == []


@pytest.mark.parametrize("name", ["ppo", "a2c"])
def test_a_critic_that_learns_alone_to_the_end_of_the_run_is_refused(name):
    def check(warmup_steps):
        algorithm = {"name": name, "critic_warmup_steps": warmup_steps}
        asked = recipe(run={"name": "a", "steps": 6}, algorithm=algorithm)
        check_warmup(asked, build_algorithm(asked))

    check(5)
    with pytest.raises(ConfigError) as caught:
        check(6)
    assert str(caught.value) == (
        "algorithm.critic_warmup_steps=6 with run.steps=6: the critic learns alone to the end of "
        "the run, and the policy never moves; use at most 5, or run.steps 7 or more"
    )


def test_an_algorithm_without_a_critic_needs_no_warm_up():
    short = recipe(run={"name": "a", "steps": 1})
    check_warmup(short, build_algorithm(short))


def test_the_bounds_of_the_recipe_hold_beta():
    falling = {"controller": {"name": "linear", "start": 0.1, "end": 0.0}}
    assert beta_after(falling) == 0.1
    assert beta_after({**falling, "ceiling": 0.06}) == 0.06
    assert beta_after(falling, *[0.0] * 90) == pytest.approx(0.01)
    assert beta_after({**falling, "floor": 0.02}, *[0.0] * 90) == 0.02


def test_the_spike_guard_of_the_recipe_keeps_a_spike_from_the_controller():
    # On target for 16 updates; then 100 times as much, of which 1.1 times is let through.
    controller = {"name": "target", "beta": 0.1, "gain": 0.5, "nats_per_token": 0.05}
    nats = [*[0.05] * 16, 5.0]
    assert beta_after({"controller": controller}, *nats) == pytest.approx(0.11)
    assert beta_after({"controller": controller, "spike": 1.1}, *nats) == pytest.approx(0.105)


OWN = """
class Whole:
    beta, needs_reference = 0.3, True
    def observe(self, facts): ...
    def state_dict(self): return {}
    def load_state_dict(self, state): ...

class Timed(Whole):
    def __init__(self, *, total_steps, factor: float = 1.0):
        self.beta = factor * total_steps

class Blind:
    def __init__(self): self.beta = 0.3
    def observe(self, facts): ...
    def state_dict(self): return {}
    def load_state_dict(self, state): ...

class Bare: ...
"""


@pytest.fixture
def own(tmp_path):
    """Return `(class, **options) -> controller`, the class being one of `OWN`."""
    file = tmp_path / "own.py"
    file.write_text(OWN)

    def build(name, **options):
        return build_controller(recipe(kl={"controller": {"name": f"{file}:{name}", **options}}))

    return build


def test_a_controller_of_ones_own_is_given_the_number_of_steps_if_it_names_that(own):
    assert own("Whole").beta == 0.3
    assert own("Timed", factor=0.01).beta == 1.0  # of 100 steps
    with pytest.raises(ConfigError, match=r"kl\.controller\.total_steps: unknown option"):
        own("Whole", total_steps=3)


@pytest.mark.parametrize(
    ("name", "lacks"),
    [("Blind", "needs_reference"), ("Bare", "observe, state_dict, load_state_dict")],
)
def test_a_controller_that_lacks_something_is_refused_before_the_run(own, name, lacks):
    needs = "beta, needs_reference, observe, state_dict, load_state_dict"
    with pytest.raises(PluginError, match=f":{name}' has no {lacks}; it needs {needs}$"):
        own(name)


def test_an_algorithm_of_ones_own_that_is_none_is_refused_before_the_run(tmp_path):
    file = tmp_path / "own.py"
    file.write_text("def three():\n    return 3\n", encoding="utf-8")
    with pytest.raises(PluginError, match=r"^algorithm\.name='.*:three' returned 3; it must"):
        build_algorithm(recipe(algorithm={"name": f"{file}:three"}))


def test_an_algorithm_of_ones_own_whose_loss_does_not_fit_is_refused_before_the_run(tmp_path):
    file = tmp_path / "own.py"
    file.write_text(
        "from dataclasses import replace\n"
        "from rl_llm.algorithms import grpo\n\n\n"
        "def mine():\n"
        "    return replace(grpo(), token_loss=lambda terms: terms.advantages_BT.mean())\n",
        encoding="utf-8",
    )
    with pytest.raises(PluginError, match=r":mine': token_loss gives a tensor of shape \(\); it"):
        build_algorithm(recipe(algorithm={"name": f"{file}:mine"}))


@pytest.fixture
def engines(monkeypatch):
    """The engines that were built, each with whether it was closed."""
    built = []

    def build(*given, **named):
        built.append(False)
        number = len(built) - 1
        return SimpleNamespace(close=lambda: built.__setitem__(number, True))

    monkeypatch.setattr(parts, "build_engine", build)
    return built


def test_a_fault_in_the_curriculum_starts_no_engine_and_one_behind_it_closes_it(engines, tmp_path):
    tree = {"model": {"path": "data/models/carry-adder"}, "data": {"train": [SMALL_SOURCE]}}

    def build(**sections):
        asked, ranks = recipe(**tree, **sections), Ranks()
        model = load_model(asked, ranks)
        data = load_data(asked, model.encoder)
        folder = RunFolder(tmp_path)
        parts.build_parts(asked, model, data, ranks, folder=folder, watcher=SilentWatcher())

    few = {"problems_per_step": 4, "max_new_tokens": 64}
    with pytest.raises(PluginError, match="posteriour"):
        build(rollout=few, curriculum={"sampler": {"name": "posteriour"}})
    assert engines == []
    with pytest.raises(ModelError, match=r"lora\.targets"):
        build(rollout=few, lora={"targets": ["no_such_layer"]})
    assert engines == [True]
