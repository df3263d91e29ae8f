from pathlib import Path

import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rl_llm.config import dump_yaml, load_recipe, parse_recipe
from rl_llm.errors import ConfigError

ROOT = Path(__file__).parents[2]
RECIPES = sorted(
    file for file in (ROOT / "recipes").rglob("*.yaml") if file.parent.name != "accelerate"
)
SMALLEST = """
run: {name: tiny, steps: 10}
model: {path: somewhere}
data: {train: [{use: arithmetic, levels: [1, 2]}]}
rewards: [{use: exact_answer}]
"""


@pytest.fixture
def recipe_file(tmp_path):
    def write(text=SMALLEST):
        file = tmp_path / "recipe.yaml"
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        return file

    return write


def message_of(file, *overrides):
    with pytest.raises(ConfigError) as caught:
        load_recipe(file, overrides)
    return str(caught.value)


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: str(file.relative_to(ROOT)))
def test_every_shipped_recipe_parses(file):
    assert load_recipe(file).run.steps > 0


def test_four_sections_are_enough_and_the_rest_are_defaults(recipe_file):
    recipe = load_recipe(recipe_file())
    assert (recipe.rollout.group_size, recipe.algorithm.name) == (8, "grpo")
    assert recipe.data.train[0].options == {"levels": [1, 2]}
    assert recipe.rewards[0].options == {}


def test_a_section_may_be_merged_into_another(recipe_file):
    merged = "optim: {<<: {lr: 0.5, grad_clip: 3.0}, lr: 0.25, warmup_steps: 2}\n"
    optim = load_recipe(recipe_file(SMALLEST + merged)).optim
    assert (optim.lr, optim.grad_clip, optim.warmup_steps) == (0.25, 3.0, 2)
    twice = "optim: {<<: {lr: 0.5}, <<: {lr: 0.25}}\n"
    assert "'<<' stands twice" in message_of(recipe_file(SMALLEST + twice))


def test_a_part_without_options_may_be_its_name_alone(recipe_file):
    short = ["algorithm=ppo", "curriculum.sampler=uniform", "curriculum.gates=[informative]"]
    long = [
        "algorithm={name: ppo}",
        "curriculum.sampler={name: uniform}",
        "curriculum.gates=[{name: informative}]",
    ]
    others = ["kl.controller=constant", "rollout.correction=tis"]
    recipe = load_recipe(recipe_file(), [*short, *others])
    assert recipe == load_recipe(recipe_file(), [*long, "rollout.correction={name: tis}"])
    assert recipe.model_dump()["algorithm"] == {"name": "ppo"}


def test_an_option_leaves_the_name_of_its_part_as_it_is(recipe_file):
    given = ["kl.controller.beta=0.04", "algorithm.clip_low=0.1", "curriculum.sampler.kernel=flat"]
    recipe = load_recipe(recipe_file(), given)
    assert recipe.kl.controller.model_dump() == {"name": "constant", "beta": 0.04}
    assert recipe.algorithm.model_dump() == {"name": "grpo", "clip_low": 0.1}
    assert recipe.curriculum.sampler.model_dump() == {"name": "posterior", "kernel": "flat"}
    short = recipe_file(SMALLEST + "algorithm: ppo\n")
    found = load_recipe(short, ["algorithm.gamma=0.9"])
    assert found.algorithm.model_dump() == {"name": "ppo", "gamma": 0.9}
    named = load_recipe(short, ["algorithm.critic_lr=0.1", "algorithm=dapo"])
    assert named.algorithm.model_dump() == {"name": "dapo"}
    message = message_of(recipe_file(), "model.path.gamma=0.9")
    assert "model.path holds " in message and "set model.path as a whole" in message


def test_sections_that_lie_too_deep_are_an_error_that_names_the_file(recipe_file):
    message = message_of(recipe_file("{a: " * 3000))
    assert message.endswith("recipe.yaml: its sections lie too deep in each other to be read")


def test_a_recipe_cannot_be_changed_after_it_is_read(recipe_file):
    recipe = load_recipe(recipe_file())
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        recipe.run.steps = 3
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        recipe.rewards[0].weight = 3.0


@pytest.mark.parametrize(
    ("text", "number"),
    [("1e-3", 1e-3), ("1E3", 1e3), (".5e-1", 0.05), ("2.e+1", 20.0), ("1", 1.0), ("0.25", 0.25)],
)
def test_numbers_with_an_exponent_are_numbers(recipe_file, text, number):
    assert load_recipe(recipe_file(), [f"optim.lr={text}"]).optim.lr == number


# What a user may get wrong in a key, as an override.
FAULTS = {
    # unknown keys
    "rollout.grup_size=8": "rollout.grup_size: unknown key (did you mean 'group_size'?); "
    "known: correction, engine, group_size, max_batch_rows, max_new_tokens, max_staleness, "
    "mismatch_alarm_nats, problems_per_step, servers, temperature, vllm",
    "group_size=8": "group_size: unknown key; 'group_size' is written as rollout.group_size",
    "rollout.every=8": "rollout.every: unknown key; 'every' is written as eval.every or "
    "checkpoint.every",
    # names of TRL
    "num_generations=8": "num_generations: unknown key; 'num_generations', known from TRL, is "
    "written as rollout.group_size",
    "rollout.top_p=0.9": "rollout.top_p: unknown key; 'top_p', known from TRL, has no counterpart "
    "here; leave it out",
    "kl.beta=0.04": "kl.beta: unknown key; 'beta', known from TRL, is written as "
    "kl.controller.beta",
    "seed=3": "seed: unknown key; 'seed' is written as run.seed",
    # wrong types and values
    "run.steps=0": "run.steps=0: input should be greater than 0",
    "run.steps=ten": "run.steps='ten': input should be a valid integer",
    "run.steps=10.0": "run.steps=10.0: input should be a valid integer",
    "run.steps=true": "run.steps=True: input should be a valid integer",
    "run.name=a/b": "run.name='a/b': a run's folder is named by it: use letters of ASCII, "
    "digits, '.', '_' and '-', a letter or a digit first",
    "run.name=7": "run.name=7: input should be a valid string; in quotes it is one: '7'",
    "optim.lr=.nan": "optim.lr=nan: input should be a finite number",
    "optim.lr=.inf": "optim.lr=inf: input should be a finite number",
    "optim.lr=1e999": "optim.lr=inf: input should be a finite number",
    "kl.estimator=k4": "kl.estimator='k4': input should be 'k1', 'k2', 'k3' or 'k3_importance'",
    "eval.stop_when=2": "eval.stop_when=2: input should be less than or equal to 1",
    "rewards.0.weight=heavy": "rewards.0.weight='heavy': input should be a valid number",
    "lora.targets=5": "lora.targets=5: input should be a valid string or input should be a "
    "valid list; in quotes it is one: '5'",
    "lora.targets=[q, 1]": "lora.targets.1=1: input should be a valid string; in quotes it is "
    "one: '1'",
    # sections
    "lora=": "lora: empty; leave the key out for its defaults, or put keys under it",
    "data=": "data: empty; it needs train",
    "lora=16": "lora=16: a section is needed here, with keys among rank, alpha, targets",
    "algorithm=3": "algorithm=3: a section is needed here, with keys among name",
    "rewards=[exact_answer]": "rewards.0='exact_answer': write it as {use: exact_answer}",
    "rollout.correction.cap=0": "rollout.correction.name: required, and missing; add `name: ...` "
    "under rollout.correction",
    "curriculum.gates=[{name:informative}]": "curriculum.gates.0.name: required, and missing; "
    "'name:informative' needs a space behind its colon",
    "data.train=[]": "data.train=[]: list should have at least 1 item after validation, not 0; "
    "name at least one prompt source, as in [{use: jsonl, path: problems.jsonl}]",
    "curriculum.retire=false": "curriculum.retire=False: a section is needed here, "
    "with keys among pass_rate, certainty, review_share; {} takes all defaults, null switches it "
    "off",
    "curriculum.probe=true": "curriculum.probe=True: a section is needed here, with "
    "keys among completions, problems; {} takes all defaults, null switches it off",
    "curriculum.gates={name: range, low: 0.2}": "curriculum.gates={'low': 0.2, "
    "'name': 'range'}: input should be a valid list; in brackets it is one: [{name: range, low: "
    "0.2}]",
    "curriculum.gates=informative": "curriculum.gates='informative': input should be "
    "a valid list; write a list, as in [informative]; [] admits all groups",
    "data.eval=": "data.eval=null: input should be a valid list; an empty one is written as []",
    "tracking=jsonl": "tracking='jsonl': input should be a valid list; in brackets "
    "it is one: [jsonl]",
    "curriculum.prerequisites=in_order": "curriculum.prerequisites='in_order': input "
    "should be a valid dictionary; write {SOURCE: in_order}, or {SOURCE: {LEVEL: [PARENTS]}} "
    "as in {arithmetic: {5: [3, 4]}}",
    "curriculum.prerequisites.arithmetic=3=2": "curriculum.prerequisites.arithmetic="
    "'3=2': input should be 'in_order' or input should be a valid dictionary; write {SOURCE: "
    "in_order}, or {SOURCE: {LEVEL: [PARENTS]}} as in {arithmetic: {5: [3, 4]}}",
    "curriculum.priors.strength=0": "curriculum.priors.strength=0: input should be "
    "greater than 0; the lower, the sooner priors give way; to start without priors leave out "
    "priors.path and the column pass_rate of the data",
    "curriculum.quotas={gsm8k: 0}": "curriculum.quotas.gsm8k=0: input should be "
    "greater than 0; a share is above 0 and at most 1; to draw nothing from a source take it out "
    "of data.train, to let it share what the others leave give it no quota",
}
# Overrides that cannot be applied.
WRONG_OVERRIDES = {
    "run.steps": "override 'run.steps': write it as section.key=value, as in run.steps=10",
    "run..steps=1": "override 'run..steps=1': write it as section.key=value, as in run.steps=10",
    "=1": "override '=1': write it as section.key=value, as in run.steps=10",
    "rewards.1.weight=2": "override 'rewards.1.weight=2': '1' indexes rewards; use 0 to 0",
    "data.train.x=2": "override 'data.train.x=2': 'x' indexes data.train; use 0 to 0",
    "model.path.x=3": "override 'model.path.x=3': model.path holds 'somewhere', which has no 'x'; "
    "set model.path as a whole",
    "optim.lr=[": "override 'optim.lr=[': not valid YAML at line 1: expected the node content, but "
    "found '<stream end>'; if the shell has split it at a blank, put all of it between single "
    "quotes: 'optim.lr=[ ...]'",
    "model.path=@mine": "override 'model.path=@mine': not valid YAML at line 1: found character "
    "'@' that cannot start any token; text with such characters goes in two kinds of quotes: "
    "'model.path=\"...\"'",
}
# Settings that contradict each other.
CONTRADICTIONS = {
    "optim.updates_per_batch=33": "optim.updates_per_batch=33 cuts the groups of a step, "
    "rollout.problems_per_step=32, into more parts than there are groups; use at most 32",
    "optim.tokens_per_micro_batch=767": "optim.tokens_per_micro_batch=767 cannot hold one "
    "completion: data.max_prompt_tokens=512 and rollout.max_new_tokens=256 need 768; "
    "use at least 768",
    "eval.stop_when=.5": "eval.stop_when=0.5 needs held-out problems; add a source under data.eval",
    "rewards.0.weight=0": "rewards: all have weight 0, so every total is 0 and there is nothing to "
    "learn; give one of them a weight, such as `weight: 1.0` to the reward that checks the answer",
    "rewards.0.channel=format": "rewards: none is on channel 'correctness', from which pass "
    "rates and beliefs are learnt; give the reward that checks the answer `channel: correctness`",
    "curriculum.defer={most_steps: 3}": "curriculum.defer.most_steps=3 with "
    "curriculum.defer.first_steps=4: the longest wait must not be shorter than the first; "
    "use most_steps 4 or more, or a lower first_steps",
    "kl.estimator=k1": "kl.estimator='k1' differentiated in the loss has an expected gradient "
    "of zero: it adds noise and no pull towards the reference; use k2, or k3 as GRPO publishes it, "
    "or kl.placement reward",
    "kl={placement: reward, estimator: k3}": "kl.estimator='k3' taken from the rewards hardly "
    "pulls towards the reference: its gradient nearly cancels near it; use k1, or kl.placement "
    "loss",
    "kl={floor: 0.2, ceiling: 0.1}": "kl.floor=0.2 is above kl.ceiling=0.1; swap them",
    "kl={against: old, controller: {name: linear, start: 0.1, end: 0.0}}": "kl.against='old' with "
    "one update a step: the policy that the update starts "
    "from is the policy itself, and the penalty is 0; set optim.updates_per_batch or optim.epochs "
    "to 2 or more, or kl.against ref",
    "kl.stop_at_old=.1": "kl.stop_at_old=0.1 has no later update to leave out; set "
    "optim.updates_per_batch or optim.epochs to 2 or more",
    "kl.controller={name: ppo_penalty}": "kl.controller 'ppo_penalty' steers the divergence from "
    "the policy that an update starts from; set kl.against to old, and set "
    "optim.updates_per_batch or optim.epochs to 2 or more",
    "kl.reference={refresh_every: 9}": "kl.reference.refresh_every=9 with "
    "kl.reference.mode='base': only a snapshot is refreshed; set kl.reference.mode to snapshot",
    "kl={controller: {name: target}, reference: {mode: snapshot}}": "kl.reference.mode='snapshot' "
    "is never refreshed, and so stays the base; set kl.reference.refresh_every or "
    "refresh_on_stagnation, or use mode base",
    "kl={controller: {name: target}, reference: {mode: snapshot, refresh_on_stagnation: 3}}": "kl."
    "reference.refresh_on_stagnation=3 watches the held-out pass rate; add a source under "
    "data.eval",
    "kl.reference={mode: snapshot, refresh_every: 5}": "kl.reference.mode='snapshot' with "
    "kl.controller 'constant' and beta 0: no reference is ever computed, and each refresh forgets "
    "the optimiser's moments; use kl.reference.mode base, or a beta above 0",
    "kl={controller: {name: constant, beta: 0}, reference: {mode: ema}}": "kl.reference.mode='ema' "
    "with kl.controller 'constant' and beta 0: no reference is ever computed; use "
    "kl.reference.mode base, or a beta above 0",
    "kl.reference.decay=.9": "kl.reference.decay=0.9 with kl.reference.mode='base': only a moving "
    "average decays; set kl.reference.mode to ema, or leave decay out",
    "kl.spike=9": "kl.spike=9.0 with kl.controller 'constant': it bounds the divergence that a "
    "controller sees, and this one looks at none; leave kl.spike out, or use the controller target",
}


@pytest.mark.parametrize(("override", "message"), FAULTS.items(), ids=FAULTS)
def test_a_fault_names_path_value_rule_and_way_out(recipe_file, override, message):
    assert message_of(recipe_file(), override) == f"command line: {message}"


@pytest.mark.parametrize(("override", "message"), WRONG_OVERRIDES.items(), ids=WRONG_OVERRIDES)
def test_an_override_that_cannot_be_applied_says_why(recipe_file, override, message):
    assert message_of(recipe_file(), override) == message


@pytest.mark.parametrize(("override", "message"), CONTRADICTIONS.items(), ids=CONTRADICTIONS)
def test_settings_that_contradict_each_other_are_named_with_the_way_out(
    recipe_file, override, message
):
    file, path = recipe_file(), override.partition("=")[0]
    assert message_of(file, override) == f"{file} with {path} from the command line: {message}"


HELD_TO_OLD = ["optim.epochs=2", "kl={against: old, controller: {name: constant, beta: 0.1}}"]


def test_a_divergence_from_the_old_policy_cannot_be_charged_to_rewards(recipe_file):
    file = recipe_file()
    assert load_recipe(file, HELD_TO_OLD).kl.against == "old"
    assert message_of(file, *HELD_TO_OLD, "kl.placement=reward").endswith(
        "kl.against='old' with kl.placement='reward': rewards are charged before the first update, "
        "when that divergence is 0; use kl.placement loss"
    )


def test_a_way_out_leaves_out_what_the_recipe_already_sets(recipe_file):
    message = message_of(recipe_file(), "kl.controller={name: ppo_penalty}", "optim.epochs=2")
    assert message.endswith("set kl.against to old")


def test_a_penalty_that_is_always_0_is_against_nothing(recipe_file):
    file = recipe_file()
    message = message_of(file, *HELD_TO_OLD, "kl.controller.beta=0")
    assert "kl.against='old' with kl.controller 'constant' and beta 0" in message
    assert "beta above 0, or leave kl.against out" in message
    assert load_recipe(file, ["optim.epochs=2", "kl.stop_at_old=.1"]).kl.stop_at_old == 0.1


def test_a_reference_that_is_never_computed_is_not_refreshed(recipe_file):
    file, refreshed = recipe_file(), "kl.reference={mode: snapshot, refresh_every: 5}"
    assert load_recipe(file, ["kl.controller={name: constant, beta: 0.1}", refreshed])
    assert message_of(file, *HELD_TO_OLD, refreshed).endswith(
        "kl.reference.mode='snapshot' with kl.against='old': no reference is ever computed, and "
        "each refresh forgets the optimiser's moments; use kl.reference.mode base, or kl.against "
        "ref"
    )


def test_what_a_controller_of_ones_own_reads_is_not_judged(recipe_file):
    own = "kl.controller={name: mine.py:Constant}"
    reference = "kl.reference={mode: snapshot, refresh_every: 5}"
    assert load_recipe(recipe_file(), [own, reference, "kl.spike=9"]).kl.spike == 9.0


def test_a_recipe_as_run_which_names_every_default_loads_again(recipe_file):
    recipe = load_recipe(recipe_file())
    assert "decay: 0.99" in dump_yaml(recipe)
    assert load_recipe(recipe_file(dump_yaml(recipe))) == recipe


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_a_schedule_needs_steps_after_its_warmup(recipe_file, schedule):
    file, shape = recipe_file(), f"optim.schedule={schedule}"
    assert load_recipe(file, [shape, "optim.warmup_steps=9"]).optim.warmup_steps == 9
    assert load_recipe(file, ["optim.warmup_steps=10"]).optim.schedule == "constant"
    assert message_of(file, shape, "optim.warmup_steps=10").endswith(
        f"optim.warmup_steps=10 leaves nothing of run.steps=10 for the {schedule} schedule; "
        "use fewer than 10"
    )


def test_all_faults_are_reported_at_once(recipe_file):
    file = recipe_file()
    assert message_of(file, "run.steps=0", "lora.rank=0") == (
        "command line: run.steps=0: input should be greater than 0\n"
        "  lora.rank=0: input should be greater than 0"
    )
    assert message_of(file, "kl.estimator=k1", "eval.stop_when=.5").count("\n") == 1


def test_faults_of_the_file_and_of_the_command_line_are_told_apart(recipe_file):
    file = recipe_file(SMALLEST + "lora: {rank: 0, alpha: 0.0}")
    assert message_of(file, "run.steps=0") == (
        "command line: run.steps=0: input should be greater than 0\n"
        f"  {file}: lora.rank=0: input should be greater than 0\n"
        "  lora.alpha=0.0: input should be greater than 0"
    )
    assert message_of(file, "lora.rank=4") == (
        f"{file}: lora.alpha=0.0: input should be greater than 0"
    )


def test_a_contradiction_names_every_override_that_has_a_part_in_it(recipe_file):
    file = recipe_file(SMALLEST + "rollout: {problems_per_step: 4}\noptim: {updates_per_batch: 5}")
    rule = "optim.updates_per_batch="
    assert message_of(file, "run.seed=1").startswith(f"{file}: {rule}5 ")
    assert message_of(
        file, "rollout={problems_per_step: 3}", "optim.updates_per_batch=6"
    ).startswith(f"{file} with rollout and optim.updates_per_batch from the command line: {rule}6 ")


def test_a_long_value_is_shortened_in_the_message(recipe_file):
    assert len(message_of(recipe_file(), f"run.steps={'9a' * 500}")) < 200


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "a recipe is a mapping of sections (run, model, ...); this is empty"),
        ("- run", "a recipe is a mapping of sections (run, model, ...); this holds one list"),
        ("just words", "a recipe is a mapping of sections (run, model, ...); this holds one str"),
        ("run: {name: x}\nrun: {}", "'run' stands twice in the section at line 1; keep one"),
        ("run:\n  name: x\n  name: y", "'name' stands twice in the section at line 2; keep one"),
        (
            "run:\n\tname: x",
            "not valid YAML at line 2: found character '\\t' that cannot start any token; indent "
            "with spaces",
        ),
        ("run: {name: x", "not valid YAML at line 1: expected ',' or '}', but got '<stream end>'"),
        (
            "run: \x07",
            "not valid YAML: unacceptable character #x0007: special characters are not allowed",
        ),
        (b"# caf\xe9\n", "byte 0xe9 at line 1 is not UTF-8; save the file as UTF-8"),
        (b"a: 1\nb: \xff\n", "byte 0xff at line 2 is not UTF-8; save the file as UTF-8"),
    ],
)
def test_a_file_that_holds_no_recipe_says_why(recipe_file, text, message):
    file = recipe_file(text)
    assert message_of(file) == f"{file}: {message}"


def test_a_missing_file_says_where_it_was_looked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert message_of("no.yaml") == f"there is no recipe 'no.yaml' (looked in {tmp_path})"


def test_a_folder_is_not_a_recipe(tmp_path):
    assert message_of(tmp_path) == f"{tmp_path} is a folder; name a recipe in it"


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("1: x", "top level: the key 1"),
        ("on: x", "top level: the key True"),
        ("lora: {2: x}", "lora: the key 2"),
    ],
)
def test_a_key_that_yaml_does_not_read_as_a_word_is_refused(recipe_file, text, where):
    message = message_of(recipe_file(SMALLEST + text))
    assert message.endswith(f": {where} is not a word; quote it")


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("run.steps=3", lambda recipe: recipe.run.steps == 3),
        ("lora.targets=[q_proj]", lambda recipe: recipe.lora.targets == ["q_proj"]),
        ("rewards.0.weight=0.5", lambda recipe: recipe.rewards[0].weight == 0.5),
        ("curriculum.refill.max_rounds=2", lambda recipe: recipe.curriculum.refill.max_rounds == 2),
        ("data.train.0.levels.1=9", lambda r: r.data.train[0].options == {"levels": [1, 9]}),
        ("rewards.0.pattern=a=b", lambda r: r.rewards[0].options == {"pattern": "a=b"}),
        ("model.chat_template=null", lambda recipe: recipe.model.chat_template is None),
    ],
)
def test_an_override_sets_one_key(recipe_file, override, value):
    assert value(load_recipe(recipe_file(), [override]))


def test_the_last_override_of_a_key_wins(recipe_file):
    assert load_recipe(recipe_file(), ["run.seed=1", "run.seed=2"]).run.seed == 2


def test_an_override_fills_a_section_that_the_file_leaves_empty(recipe_file):
    file = recipe_file(SMALLEST + "lora:\n")
    assert load_recipe(file, ["lora.rank=4"]).lora.rank == 4


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(st.characters(codec="utf-8"), max_size=8)
    | st.sampled_from(["1e5", ".5e3", "null", "yes", "0x1", "1_0", "2024-01-01", "a: b", "~"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", min_size=1), inner),
    max_leaves=6,
)


@given(
    options=st.dictionaries(st.text("xyz", min_size=1), plain, max_size=3), lr=st.floats(1e-9, 1)
)
def test_a_dumped_recipe_reads_back_equal(tmp_path_factory, options, lr):
    tree = {
        "run": {"name": "1e5", "steps": 10},
        "model": {"path": "somewhere"},
        "data": {"train": [{"use": "arithmetic", **options}]},
        "rewards": [{"use": "exact_answer", **options}],
        "optim": {"lr": lr},
    }
    recipe = parse_recipe(tree, where="test")
    file = tmp_path_factory.getbasetemp() / "dumped.yaml"
    file.write_text(dump_yaml(recipe), encoding="utf-8", newline="")
    assert load_recipe(file) == recipe


def test_a_dumped_recipe_has_every_default_written_out(recipe_file):
    text = dump_yaml(load_recipe(recipe_file()))
    assert text.startswith("run:\n  name: tiny\n  seed: 0\n  steps: 10\n  output_dir: runs\n")
    assert "\nalgorithm:\n  name: grpo\n" in text
