import re
import shutil
import tempfile
from pathlib import Path

import pytest
from huggingface_hub import constants

from rl_llm.cli import estimate
from rl_llm.cli.main import main
from rl_llm.config import dump_yaml, load_recipe

ROOT = Path(__file__).parents[2]


@pytest.fixture
def scratch(tmp_path, monkeypatch):
    """Put temporary files into a folder that can be looked at."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def everything_under(folder):
    """Return all paths, but for the cache that torch makes in the folder of temporary files."""
    found = sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))
    return [path for path in found if "torchinductor" not in path]


def test_a_valid_recipe_is_counted_and_leaves_nothing_behind(small, scratch, capsys):
    assert main(["validate", str(small)]) == 0
    printed = capsys.readouterr().out
    assert "data.train: 60 problems" in printed and "data.eval: 12 problems" in printed
    assert "longest prompt: 16 tokens" in printed and "cannot read" not in printed
    # 4 problems of 4 completions in the first of 3 rounds, of at most 96 tokens each.
    assert ["completions, refills included, at most", "48"] in cells(printed)
    assert ["sampled tokens, at most", "4,608"] in cells(printed)
    assert printed.endswith("small.yaml: valid\n")
    assert "one step:" not in printed
    assert everything_under(small.parent) == ["scratch", "small.yaml"]


@pytest.mark.parametrize("planned", [[], ["--processes=2"]])
def test_what_a_recipe_names_and_is_not_there_is_told_all_at_once(small, capsys, planned):
    wrong = ["model.path=./modle", "data.train.0.use=arithmetik", "data.eval.0.seeed=3"]
    assert main(["validate", str(small), *wrong, "rewards.0.use=exact_anser", *planned]) == 2
    first, *others = capsys.readouterr().err.splitlines()
    assert first.startswith("error: model.path='./modle' is not a folder")
    starts = [
        "  data.train.0.use: there is no data plugin 'arithmetik' (did you mean 'arithmetic'",
        "  data.eval.0.seeed: unknown option (did you mean 'seed'",
        "  rewards.0.use: there is no rewards plugin 'exact_anser' (did you mean 'exact_answer'",
    ]
    assert [line[: len(s)] for line, s in zip(others, starts, strict=True)] == starts


def test_references_that_a_reward_cannot_use_are_counted(small, capsys):
    assert main(["validate", str(small), "rewards=[{use: choice_answer}]"]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "references of" in line]
    assert line.startswith("reward 'choice_answer' cannot use the references of 72 of 72 problems;")


@pytest.mark.parametrize("planned", [[], ["--processes=2"]])
def test_chats_are_measured_in_the_template_of_the_recipe(small, capsys, planned):
    row = '{"prompt": "4+9", "answer": "13"}\n'
    small.with_name("chats.jsonl").write_text(row, encoding="utf-8")
    chats = "data.eval=[{use: jsonl, path: chats.jsonl, chat: true}]"
    template = "{{ messages[0].content }}" + 29 * "7"
    small.with_name("chat.jinja").write_text(template, encoding="utf-8")
    words = ["validate", str(small), chats, *planned]
    assert main(words) == 2
    assert "has no chat template; set model.chat_template" in capsys.readouterr().err
    # The 3 characters of the prompt and the 29 behind them are a token each.
    assert main([*words, "model.chat_template=chat.jinja"]) == 0
    assert "longest prompt: 32 tokens" in capsys.readouterr().out


def cells(printed):
    return [
        [cell.strip() for cell in line.strip("│").split("│")]
        for line in printed.splitlines()
        if line.startswith("│")
    ]


def test_a_dry_run_takes_one_real_step_and_leaves_nothing_behind(small, scratch, capsys):
    assert main(["validate", str(small), "--dry-run"]) == 0
    printed = capsys.readouterr().out
    (line,) = [line for line in printed.splitlines() if line.startswith("one step:")]
    # Refills come on top of the 16 completions that are planned.
    assert int(line.split(" s, ")[1].split()[0]) >= 16
    assert float(line.partition("gradient norm ")[2].split(",")[0]) > 0
    assert float(line.partition("engine mismatch ")[2].split()[0]) < 1e-3
    assert printed.endswith("small.yaml: valid\n") and "nothing" not in printed
    assert everything_under(small.parent) == ["scratch", "small.yaml"]


@pytest.mark.parametrize(
    ("changes", "seen"),
    [
        (
            ["data.train.0={use: arithmetic, levels: [1], size: 20, split: train}"],
            ["(0 all wrong, 4 all correct, 0 without", "Likely: what can be drawn is mastered"],
        ),
        (
            ["rollout.max_new_tokens=1"],
            ["(4 all wrong, 0 all correct, 0 without", "Likely: 16 of 16 completions ran into"],
        ),
    ],
)
def test_a_dry_run_that_would_have_taught_nothing_says_so_and_what_it_saw(
    small, capsys, changes, seen
):
    once = "curriculum={refill: {max_rounds: 0}}"
    assert main(["validate", str(small), "--dry-run", once, *changes]) == 0
    printed = capsys.readouterr().out
    assert "nothing to learn from in 4 groups (" in printed
    assert [part for part in seen if part not in printed] == []
    assert printed.endswith(
        "small.yaml: valid, but the policy would have learnt nothing in its first step\n"
    )


@pytest.mark.slow
def test_a_dry_run_takes_the_first_step_of_the_run(small, finished, capsys, read_metrics):
    first = read_metrics(finished / "runs" / "small")[1]
    assert main(["validate", str(small), "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert f" s, {first['rollout/completions']} completions, " in printed
    assert f"pass rate {first['train/pass_rate']:.2f}, " in printed
    assert f"gradient norm {first['optim/grad_norm']:.3g}, " in printed


def test_a_step_may_draw_the_whole_pool_and_an_endless_pool_is_what_stands_at_a_time(small, capsys):
    assert main(["validate", str(small), "rollout.problems_per_step=60"]) == 0
    assert main(["validate", str(small), "data.train.0.endless=true"]) == 0
    fast = "rollout.problems_per_step=61"
    assert main(["validate", str(small), "data.train.0.endless=true", fast]) == 2
    assert f"{fast} with 60 problems in data.train at a time" in capsys.readouterr().err


def test_what_is_known_before_a_run_is_said(small, capsys):
    rows = [f'{{"prompt": "{n}+1=", "answer": "2", "pass_rate": 0.5}}' for n in range(4)]
    small.with_name("rated.jsonl").write_text("\n".join(rows), encoding="utf-8")
    source = "data.train=[{use: jsonl, path: rated.jsonl}]"
    assert main(["validate", str(small), source]) == 0
    assert "priors: 4 of 4 problems known from the column pass_rate" in capsys.readouterr().out


def test_prompts_that_the_tokenizer_cannot_read_are_counted_and_named(small, capsys):
    words = ["Ann has 3.", "Bob has 4.", *[f"{n}+1=" for n in range(4)]]
    rows = [f'{{"prompt": "{text}", "answer": "2"}}' for text in words]
    small.with_name("words.jsonl").write_text("\n".join(rows), encoding="utf-8")
    source = ["data.train=[{use: jsonl, path: words.jsonl}]", "--processes=1"]
    assert main(["validate", str(small), *source, "data.eval=[]"]) == 0
    printed = capsys.readouterr().out
    # 7 of 10 characters, twice, beside 4 sums of 4 characters.
    assert "2 of 6 prompts hold what the tokenizer of model.path=" in printed
    assert "14 of the 36 tokens of all prompts (39 %) are '<unk>'" in printed
    assert "of the first such prompt it is 'A', 'n', 'h', 'a', 's', '.'; use" in printed
    assert "were tried\n" in printed
    small.with_name("words.jsonl").write_text("\n".join(rows[:3]), "utf-8")
    few = ["rollout.problems_per_step=2", "eval.train_problems=2"]
    assert main(["validate", str(small), *source, "data.eval=[]", *few]) == 0
    printed = capsys.readouterr().out
    assert "2 of 3 prompts hold what" in printed
    assert printed.endswith("tried, but the tokenizer cannot read most of the prompts\n")


def test_the_quickstart_is_valid(repository, capsys):
    assert main(["validate", str(repository / "recipes" / "quickstart.yaml")]) == 0
    assert ["completions, refills included, at most", "256"] in cells(capsys.readouterr().out)


def test_a_recipe_can_be_changed_before_it_is_validated(small, capsys):
    assert main(["validate", str(small), "rollout.group_size=8"]) == 0
    assert ["completions, refills included, at most", "96"] in cells(capsys.readouterr().out)


def test_probes_are_counted_at_their_most_completions(small, capsys):
    probing = ["curriculum.probe={completions: 2, problems: 6}", "curriculum.refill.max_rounds=0"]
    assert main(["validate", str(small), *probing]) == 0
    # 6 probes of 2 in both calls of a step, and the other 2 of 4 groups in the second.
    printed = cells(capsys.readouterr().out)
    assert ["completions, probes included, at most", "32"] in printed
    assert ["sampled tokens, at most", "3,072"] in printed


def sizes(printed):
    """Return the rows of the table that are sizes in memory, in MiB."""
    return {
        cell[0]: float(cell[1].removesuffix(" MiB").replace(",", ""))
        for cell in cells(printed)
        if cell[1].endswith(" MiB")
    }


def test_a_critic_is_said_and_counted(small, capsys):
    rank = "lora.rank=64"  # large enough to show in tenths of a MiB
    assert main(["validate", str(small), rank]) == 0
    printed = capsys.readouterr().out
    alone = sizes(printed)
    assert "critic:" not in printed and not any("critic" in label for label in alone)
    ppo = "algorithm={name: ppo, critic_lr: 3e-4, critic_warmup_steps: 2}"
    assert main(["validate", str(small), rank, ppo]) == 0
    printed = capsys.readouterr().out
    assert (
        "critic: an adapter and a head on the same base, learning rate 0.0003, alone up to step 2"
        in printed.splitlines()
    )
    both = sizes(printed)
    adapter = alone["adapter"]
    assert adapter > 2
    assert both["critic's adapter and head"] == pytest.approx(adapter, abs=0.1)
    # Each weight has a gradient, and AdamW keeps two numbers for it.
    assert alone["gradient of what is trained"] == adapter
    assert alone["optimiser"] == pytest.approx(2 * adapter, abs=0.1)
    assert both["optimiser"] == pytest.approx(4 * adapter, abs=0.2)
    assert both["base model"] == alone["base model"]
    more = sum(both.values()) - sum(alone.values())
    more -= both["memory a process needs, about"] - alone["memory a process needs, about"]
    assert more == pytest.approx(4 * adapter, abs=0.4)


def test_a_reference_of_its_own_is_counted_and_is_no_part_of_the_base(small, capsys):
    rank = "lora.rank=64"
    assert main(["validate", str(small), rank]) == 0
    alone = sizes(capsys.readouterr().out)
    assert main(["validate", str(small), rank, "kl.reference={mode: ema}"]) == 0
    both = sizes(capsys.readouterr().out)
    adapter = alone["adapter"]
    assert both.pop("reference's adapter") == pytest.approx(adapter, abs=0.1)
    total = "memory a process needs, about"
    assert both.pop(total) - alone.pop(total) == pytest.approx(adapter, abs=0.2)
    assert both == alone


def test_a_dry_run_says_how_the_critic_moved_while_the_policy_waits(small, capsys):
    assert main(["validate", str(small), "--dry-run", "algorithm={name: ppo}"]) == 0
    (line,) = [row for row in capsys.readouterr().out.splitlines() if row.startswith("one step:")]
    policy, critic = line.partition("gradient norm ")[2].split(", ")[:2]
    assert float(policy) == 0 and float(critic.removeprefix("critic's ")) > 0


@pytest.fixture
def without_weights(small, repository):
    """The recipe with a model of which only the configuration and the tokenizer are here."""
    shutil.copytree(
        repository / "data" / "models" / "carry-adder",
        small.with_name("model"),
        ignore=shutil.ignore_patterns("model.safetensors"),
    )
    return [str(small), "model.path=./model", "rollout.engine=transformers"]


def test_a_run_on_many_processes_is_planned_without_them_and_without_weights(
    without_weights, capsys
):
    assert main(["validate", *without_weights]) == 2
    assert "no causal language model" in capsys.readouterr().err
    assert main(["validate", *without_weights, "--processes", "4"]) == 0
    printed = capsys.readouterr().out
    rows = cells(printed)
    # 4 problems of 4 completions, in 2 updates of 2 groups; the last 2 processes learn nothing.
    assert ["of this, one of 4 processes has", ""] in rows
    assert ["problems of the first call of the engine", "1"] in rows
    assert ["groups of an update, of equal lengths", "0 or 1"] in rows
    assert "processes 2 to 3 have nothing to learn from" in printed
    assert "memory of one of 4 processes" in printed
    assert printed.endswith("valid as planned; neither weights nor a rollout engine were tried\n")


def test_a_file_of_accelerate_says_the_stage(without_weights, repository, capsys):
    file = repository / "recipes" / "accelerate" / "zero3.yaml"
    planned = [*without_weights, "lora.rank=64", "--config_file", str(file)]
    assert main(["validate", *planned]) == 0
    printed = capsys.readouterr().out
    assert "memory of one of 8 processes, ZeRO-3" in printed
    eighth = sizes(printed)
    assert main(["validate", *planned, "--processes", "2"]) == 0
    printed = capsys.readouterr().out
    assert "memory of one of 2 processes, ZeRO-3" in printed
    for label in ("base model", "adapter", "optimiser"):
        assert sizes(printed)[label] == pytest.approx(4 * eighth[label], abs=0.25)
    # The trainer's base is in parts, so that the engine has one of its own beside a merged copy.
    assert main(["validate", *without_weights, "--processes", "2"]) == 0
    plain = sizes(capsys.readouterr().out)
    copies = "copies for rollouts, at most"
    assert plain[copies] == plain["base model"]
    assert eighth[copies] == pytest.approx(2 * plain[copies], abs=0.1)


def test_auto_is_planned_as_vllm_on_gpus_whatever_is_here_and_as_transformers_on_cpus(
    without_weights, repository, capsys
):
    planned = [*without_weights, "rollout.engine=auto", "rollout.vllm.memory_fraction=0.9"]
    assert main(["validate", *planned, "--processes", "2"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("engine: vllm (planned for GPUs with vLLM installed; ")
    found = sizes(printed)
    assert found["vLLM's copy of the model, in its share"] == found["base model"]
    # A tenth of the GPU has to hold what the trainer has all along.
    standing = sum(found[row] for row in ("base model", "adapter", "gradient of what is trained"))
    standing += found["optimiser"]
    held = max(standing + found["activations of a micro-batch, at most"], 10 * standing)
    assert found["memory a GPU needs, about"] == pytest.approx(held, abs=2)
    assert "vLLM has rollout.vllm.memory_fraction=0.9 of the GPU while it generates, " in printed
    file = repository / "recipes" / "accelerate" / "cpu.yaml"
    assert main(["validate", *planned, "--config_file", str(file)]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("engine: transformers (planned for CPUs)\n")
    assert "vLLM" not in printed and "memory a process needs, about" in sizes(printed)


def test_a_model_that_cannot_be_foreseen_gets_a_rule_of_thumb_that_is_called_so(
    without_weights, capsys, monkeypatch
):
    monkeypatch.setattr(estimate, "activation_bytes", lambda *_: None)
    assert main(["validate", *without_weights, "--processes", "1"]) == 0
    found = sizes(capsys.readouterr().out)
    # 34 values of 128 in each of 4 layers, and the 4 layers' inputs; 4 bytes; 2 groups of 400.
    expected = (34 * 4 + 4) * 128 * 4 * 800 / 2**20
    label = "activations of a micro-batch, by a rule of thumb"
    assert found[label] == pytest.approx(expected, abs=0.06)


def test_layers_that_run_again_and_smaller_micro_batches_take_less(without_weights, capsys):
    label = "activations of a micro-batch, at most"
    found = []
    for changes in (
        [],
        ["optim.tokens_per_micro_batch=512"],
        ["optim.gradient_checkpointing=true"],
    ):
        assert main(["validate", *without_weights, *changes, "--processes", "1"]) == 0
        found.append(sizes(capsys.readouterr().out)[label])
    whole, half, again = found
    # A process has 2 groups of 16 + 4 x 96 positions in an update, 800 in all.
    assert half == pytest.approx(whole * 512 / 800, rel=0.1)
    assert again < 0.6 * whole


def test_prompts_that_run_with_every_completion_fill_micro_batches_sooner(without_weights, capsys):
    label = "micro-batches of an update, longest sequences"
    budget = "optim.tokens_per_micro_batch=850"
    # 2 groups: 2 x (16 + 4 x 96) = 800 positions, or 2 x 4 x (16 + 96) = 896.
    for change, expected in (("false", "1"), ("true", "2")):
        again = f"optim.gradient_checkpointing={change}"
        assert main(["validate", *without_weights, budget, again, "--processes", "1"]) == 0
        assert [label, expected] in cells(capsys.readouterr().out)


def test_a_dry_run_of_a_plan_is_refused(small, capsys):
    assert main(["validate", str(small), "--dry-run", "--processes", "2"]) == 2
    assert "--dry-run takes a step here" in capsys.readouterr().err


def test_a_folder_that_holds_another_recipes_run_is_told(small, capsys):
    run = small.parent / "runs" / "small"
    run.mkdir(parents=True)
    (run / "resolved.yaml").write_text(
        dump_yaml(load_recipe(small, ["rollout.engine=transformers"])), encoding="utf-8"
    )
    (run / "metrics.jsonl").write_text('{"step": 0}\n', encoding="utf-8")
    assert main(["validate", str(small)]) == 0
    assert capsys.readouterr().out.endswith("small.yaml: valid\n")
    assert main(["validate", str(small), "optim.lr=0.5"]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"optim\.lr: \S+ in the checkpoint, 0\.5 in the recipe", printed)
    assert printed.endswith("valid, but `rl-llm train` does not go on in runs/small\n")
    broken = run / "checkpoints" / "step-000001"
    broken.mkdir(parents=True)
    assert main(["validate", str(small)]) == 0
    assert "no checkpoint in runs/small/checkpoints is whole" in capsys.readouterr().out
    assert broken.is_dir()


@pytest.mark.parametrize("name", ["vllm", "auto"])
def test_engines_that_would_share_gpus_of_several_processes_are_refused(small, capsys, name):
    given = [f"rollout.engine={name}", "rollout.vllm.tensor_parallel_size=2"]
    on_gpus = ["--config_file", str(ROOT / "recipes" / "accelerate" / "ddp.yaml")]
    assert main(["validate", str(small), *given, *on_gpus, "--processes", "2"]) == 2
    assert "tensor_parallel_size=2 with 2 processes" in capsys.readouterr().err


def test_settings_of_vllm_that_another_engine_does_not_read_are_told(small, capsys):
    given = ["rollout.engine=auto", "rollout.vllm.publish=merged"]
    assert main(["validate", str(small), *given]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "engine: " in line]
    assert line.endswith("what rollout.vllm says is left out)")


def test_a_warm_up_that_is_longer_than_the_run_is_told(small, capsys):
    given = ["optim.warmup_steps=10", "run.steps=4", "--processes=1"]
    assert main(["validate", str(small), *given]) == 0
    assert "optim.warmup_steps=10 with run.steps=4: " in capsys.readouterr().out


@pytest.mark.parametrize("name", ["reinforce", "a2c"])
def test_several_updates_without_a_ratio_are_called_biased(small, capsys, name):
    algorithm = f"algorithm={{name: {name}}}"
    assert main(["validate", str(small), algorithm]) == 0
    assert (
        f"algorithm '{name}' with optim.updates_per_batch=2 and optim.epochs=2: its loss has no "
        "ratio"
    ) in capsys.readouterr().out
    once = ["optim.epochs=1", "optim.updates_per_batch=1"]
    for quiet in ([algorithm, *once], ["algorithm={name: reinforce_pp}"]):
        assert main(["validate", str(small), *quiet]) == 0
        assert "no ratio" not in capsys.readouterr().out


@pytest.fixture
def login(tmp_path, monkeypatch):
    """Write what a login has stored, or nothing, and let no variable say more."""

    def write(token=""):
        file = tmp_path / "stored-token"
        file.write_text(token, encoding="utf-8")
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(file))
        for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_OIDC_RESOURCE"):
            monkeypatch.delenv(name, raising=False)

    return write


def hub_line(printed):
    (line,) = [line for line in printed.splitlines() if line.startswith("hub: ")]
    return line


def test_it_says_what_is_pushed_where_and_whether_there_is_a_token(
    small, capsys, login, monkeypatch
):
    # An address that nobody answers at, and nothing waits for it.
    monkeypatch.setattr(constants, "ENDPOINT", "http://192.0.2.1")
    pushes = ["hub.repo_id=me/adder", "hub.push=[checkpoint, end]", "--processes=1"]
    login()
    assert main(["validate", str(small), *pushes]) == 0
    start = "hub: checkpoint and end to me/adder (private) at http://192.0.2.1; "
    line = hub_line(capsys.readouterr().out)
    assert line.startswith(f"{start}there is no token yet: log in with `hf auth login`, or set ")
    login("hf_stored")
    assert main(["validate", str(small), *pushes]) == 0
    line = hub_line(capsys.readouterr().out)
    assert line == f"{start}token: the login of `hf auth login`"
    monkeypatch.setenv("HF_TOKEN", "hf_given")
    assert main(["validate", str(small), *pushes, "hub.private=false"]) == 0
    line = hub_line(capsys.readouterr().out)
    assert "(public)" in line and line.endswith("token: the environment variable HF_TOKEN")
    assert "hf_" not in line


def test_without_a_repository_nothing_is_said_of_a_hub_unless_pushes_are_asked_for(small, capsys):
    assert main(["validate", str(small), "--processes=1"]) == 0
    assert "hub: " not in capsys.readouterr().out
    assert main(["validate", str(small), "--processes=1", "hub.push=[checkpoint]"]) == 0
    line = hub_line(capsys.readouterr().out)
    assert line == "hub: nothing is pushed, for hub.repo_id names no repository"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["hub.repo_id=a/b/c"], "hub.repo_id='a/b/c': Repo id must be in the form"),
        (["hub.repo_id=me/adder", "hub.push=[]"], "hub.push=[] with hub.repo_id: nothing would"),
        (["hub.push=[best]"], "hub.push.0='best': input should be 'checkpoint' or 'end'"),
        (["hub.repo_id=hf_" + "a" * 30], "hub.repo_id looks like an access token"),
    ],
)
def test_a_hub_that_cannot_be_pushed_to_is_refused(small, capsys, overrides, message):
    assert main(["validate", str(small), *overrides]) == 2
    said = capsys.readouterr().err
    assert message in said and "a" * 30 not in said
