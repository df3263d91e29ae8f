"""`rl-llm data explain` as a user runs it, on a run whose completions are scripted."""

import json
import math
from dataclasses import asdict

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rl_llm.cli.inputs import load_data
from rl_llm.cli.main import main
from rl_llm.cli.parts import make_scheduler
from rl_llm.config import Recipe, dump_yaml, load_recipe
from rl_llm.curriculum import store
from rl_llm.policy import load_tokenizer
from rl_llm.records import Completion, Group, Score, ScoredGroup, content_key
from rl_llm.rollout.prompts import PromptEncoder
from rl_llm.trainer import Counters, JsonlSink, RunFolder
from rl_llm.trainer.checkpoint import FORMAT
from rl_llm.trainer.draws import draw_rows
from rl_llm.trainer.generation import Harvest
from rl_llm.trainer.manifest import seal
from rl_llm.trainer.pending import HarvestReport, Pending

RECIPE = """
run: {{name: told, steps: 9}}
model: {{path: data/models/carry-adder}}
data:
  train: {train}
  eval: [{{use: jsonl, path: {folder}/test.jsonl}}]
rewards: [{{use: exact_answer}}]
curriculum:
  belief: {{prior_strength: 2.0, coupling: 0.0}}
  defer: {{after: 2, first_steps: 4, most_steps: 64}}
  prerequisites: {prerequisites}
  probe: {probe}
  priors: {{path: {priors}}}
rollout: {{problems_per_step: 3, group_size: 4, max_new_tokens: 8}}
algorithm: {{name: grpo}}
"""
PROMPTS = {"1+1=": 1, "2+2=": 1, "3+3=": 1, "4+4=": 2}
CORRECT = {"1+1=": (1, 1, 0, 0), "2+2=": (0, 0, 0, 0)}


def key_of(prompt):
    return content_key(prompt, "0")


def scored(request, correct):
    completion = Completion(
        token_ids=(1,), logprobs=(0.0,), text="", finish_reason="stop", policy_version=0
    )
    group = Group(
        problem=request.problem, prompt_ids=(2,), completions=(completion,) * len(correct)
    )
    scores = tuple(Score(total=float(good), parts={}, correct=bool(good)) for good in correct)
    return ScoredGroup(group=group, scores=scores)


def play(scheduler, step, correct):
    """Play a step to its end; whoever is asked for fewer completions gives the first of them."""
    found = {"scored": [], "draws": [], "admitted": [], "dropped": []}
    requests, num_rounds = scheduler.plan(step), 0
    while requests:
        marks = [correct.get(r.problem.prompt, (1, 0, 0, 0)) for r in requests]
        groups = [
            scored(r, own[: r.num_completions]) for r, own in zip(requests, marks, strict=True)
        ]
        found["scored"] += groups
        found["draws"] += scheduler.observe(groups, step=step)
        ended = scheduler.conclude(groups)
        found["admitted"] += ended.finished
        found["dropped"] += ended.dropped
        num_rounds += 1
        requests = scheduler.refill(step, round=num_rounds, num_missing=0)
    parts = {name: tuple(brought) for name, brought in found.items()}
    return Harvest(**parts, num_rounds=num_rounds, generate_s=1.0, score_s=0.0)


def simulate(folder, recipe, *, num_steps, num_ahead=0, num_unsaved=0, correct=CORRECT):
    """Leave in a folder what a run of so many steps leaves that `explain` reads; completions of the
    last `num_ahead` wait to be learnt from, and `num_unsaved` more steps lie behind the
    checkpoint."""
    tokenizer = load_tokenizer(recipe.model.path, chat_template=recipe.model.chat_template)
    encoder = PromptEncoder(tokenizer)
    scheduler = make_scheduler(recipe, load_data(recipe, encoder))
    run = RunFolder(folder)
    sink = JsonlSink(run.draws, last_step=-1)
    learnt, pending = num_steps - num_ahead, Pending()
    for step in range(1, num_steps + 1):
        harvest = play(scheduler, step, correct)
        if step > learnt:
            pending.reports[step] = HarvestReport(harvest=harvest, metrics={}, messages=())
            continue
        for row in draw_rows(harvest, step=step):
            sink.write(row)
    saved = run.checkpoints / f"step-{learnt:06d}"
    saved.mkdir(parents=True)
    pending.save(saved)
    rest = store.save(saved / "curriculum.parquet", scheduler.row_names, scheduler.state_dict())
    state = {"format": FORMAT, "counters": asdict(Counters(step=learnt)), "curriculum": rest}
    (saved / "state.json").write_text(json.dumps(state), encoding="utf-8")
    seal(saved)
    run.resolved.write_text(dump_yaml(recipe), encoding="utf-8")
    for step in range(num_steps + 1, num_steps + num_unsaved + 1):
        for row in draw_rows(play(scheduler, step, correct), step=step):
            sink.write(row)
    sink.close()


@pytest.fixture
def write_recipe(tmp_path):
    def write(*, train, prerequisites="{}", probe="null", columns=None, priors="null"):
        folder = tmp_path / "data"
        folder.mkdir()
        rows = {
            "train": [
                {"prompt": p, "answer": "0", "level": k, **(columns or {}).get(p, {})}
                for p, k in PROMPTS.items()
            ],
            "test": [{"prompt": [{"role": "user", "content": "9+9="}], "answer": "0"}],
        }
        for name, lines in rows.items():
            text = "".join(json.dumps(line) + "\n" for line in lines)
            (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
        file = tmp_path / "recipe.yaml"
        train = train.format(folder=folder)
        parts = {"train": train, "prerequisites": prerequisites, "probe": probe, "priors": priors}
        file.write_text(RECIPE.format(folder=folder, **parts))
        template = "model.chat_template='{% for m in messages %}{{ m.content }}{% endfor %}'"
        return load_recipe(file, [template])

    return write


@pytest.fixture
def run_dir(write_recipe, tmp_path):
    """Three steps that draw the three problems of level 1; level 2 waits for it."""
    train = "[{{use: jsonl, path: {folder}/train.jsonl, level: level}}]"
    recipe = write_recipe(train=train, prerequisites="{train: in_order}")
    folder = tmp_path / "told"
    folder.mkdir()
    simulate(folder, recipe, num_steps=3)
    return folder


@pytest.fixture
def explain(capsys):
    """Return what is printed, and fail unless the exit code is the expected one."""

    def tell(run_dir, key, *, code=0):
        assert main(["data", "explain", str(run_dir), key]) == code
        printed = capsys.readouterr()
        return printed.out if code == 0 else printed.err

    return tell


def cells(out):
    """Return the cells of the history's table."""
    rows = [line for line in out.splitlines() if line.startswith("│")]
    return [[cell.strip() for cell in row.strip("│").split("│")] for row in rows]


def test_the_history_says_what_was_believed_what_came_of_it_and_who_drew(run_dir, explain):
    out = explain(run_dir, key_of("2+2=")[:12])
    lines = out.splitlines()
    assert lines[:4] == [
        f"key      {key_of('2+2=')}",
        "source   train, level 1",
        "prompt   2+2=",
        "answer   0",
    ]
    assert "history  drawn 3 times, 0 of 12 completions correct" in lines
    table = cells(out)
    # Before anything was seen: Beta(1, 1), so mixed with probability 1 - 2/5.
    assert table[0] == ["1", "0", "0 of 4", "0.50", "0.60", "no", "sampler"]
    assert [row[-1] for row in table] == ["sampler", "sampler", "spare"]
    assert [float(row[3]) for row in table] == sorted([float(r[3]) for r in table], reverse=True)


def test_a_problem_that_was_learnt_from_says_so(run_dir, explain):
    assert [row[-2] for row in cells(explain(run_dir, "1+1="))] == ["yes"] * 3


def test_a_deferred_problem_says_until_when_and_that_it_is_drawn_sooner_for_want_of_others(
    run_dir, explain
):
    out = explain(run_dir, "2+2=")
    # Three all-wrong groups: twice the first wait of 4 steps, from step 3 on.
    assert "in step 4:" in out
    assert "standing   deferred until step 11: 3 groups in a row all wrong" in out
    assert "next draw  in this step, for too few others are left for its 3 problems" in out


def test_a_problem_of_a_locked_level_was_never_drawn_and_says_what_it_waits_for(run_dir, explain):
    out = explain(run_dir, "4+4=")
    assert "history  never drawn" in out
    # Nothing but the prior: Beta(1, 1) leaves 2.5 % on either side.
    assert (
        "belief   pass rate 0.50, between 0.03 and 0.97 with probability 95 %; "
        "a group of 4 would be mixed with probability 0.60"
    ) in out
    assert "bucket   train/level=2: 1 problem, 0 of them visited" in out
    assert "its level  locked: opens when P(p > 0.5) > 0.8 for train/level=1" in out


def test_a_problem_that_can_be_drawn_says_how_likely_that_is(run_dir, explain):
    out = explain(run_dir, "3+3=")
    assert "standing   active" in out
    assert "the first draw takes it with probability" in out
    assert "of 2 (an even share is 0.5000)" in out


def test_a_held_out_problem_is_found_by_its_last_turn_and_never_scheduled(run_dir, explain):
    out = explain(run_dir, "9+9=")
    assert "prompt   [user] 9+9=" in out
    assert "held out: evaluated alone, never scheduled" in out
    assert explain(run_dir, content_key([{"role": "user", "content": "9+9="}], "0")) == out


def test_several_problems_are_refused_with_their_keys(run_dir, explain):
    error = explain(run_dir, "", code=2)
    assert error.startswith("error: '' means 4 problems (")
    assert error.rstrip().endswith(", ...); give more digits of the key")
    assert sorted(map(key_of, PROMPTS))[0] in error


def test_an_unknown_prompt_names_the_nearest_and_an_unknown_key_an_example(run_dir, explain):
    nearest = explain(run_dir, "2+2=?", code=2)
    assert "its training pool holds 4 problems, the nearest prompt is " + key_of("2+2=") in nearest
    example = explain(run_dir, "ffffffffff", code=2)
    assert f"for example {key_of('1+1=')} ('1+1=')" in example


def test_a_folder_without_a_run_is_refused(tmp_path, explain):
    assert "is not a run's folder" in explain(tmp_path, "a", code=2)


def test_what_a_stream_brought_earlier_has_a_history_and_a_bucket(write_recipe, tmp_path, explain):
    train = "[{{use: arithmetic, levels: [3], size: 4, split: train, seed: 1, endless: true}}]"
    recipe = write_recipe(train=train)
    folder = tmp_path / "endless"
    folder.mkdir()
    simulate(folder, recipe, num_steps=2)
    drawn = [json.loads(line) for line in (folder / "draws.jsonl").read_text().splitlines()]
    out = explain(folder, drawn[0]["key"])
    assert "prompt   of an endless stream, which has put another problem in its place" in out
    assert cells(out) == [["1", "0", "1 of 4", "0.50", "0.60", "yes", "sampler"]]
    assert "bucket   arithmetic/level=3: 4 problems at a time, endless, believed pass rate" in out
    assert "visited" not in out
    assert "in step 3" not in out


def test_the_parts_of_a_probed_group_say_what_became_of_it(write_recipe, tmp_path, explain):
    """A step probes two of four problems, finishes what was mixed and probes the other two."""
    train = "[{{use: jsonl, path: {folder}/train.jsonl}}]"
    recipe = write_recipe(train=train, probe="{completions: 2, problems: 2}")
    folder = tmp_path / "probed"
    folder.mkdir()
    simulate(folder, recipe, num_steps=1, correct={"1+1=": (1, 1)})
    drawn = [json.loads(line) for line in (folder / "draws.jsonl").read_text().splitlines()]
    rounds = {row["key"]: row["round"] for row in drawn if row["why"] == "probe"}
    assert sorted(rounds.values()) == [0, 0, 1, 1]
    # The completions of 1+1= are both correct, one of two of all others.
    out = explain(folder, "1+1=")
    assert [row[-2:] for row in cells(out)] == [["probe, dropped", "probe"]]
    assert "its probe" not in out
    for prompt in ("2+2=", "3+3=", "4+4="):
        out = explain(folder, prompt)
        assert "history  drawn 1 time, " in out
        if rounds[key_of(prompt)] == 0:
            assert [row[-2:] for row in cells(out)] == [
                ["probe, finished", "probe"],
                ["yes", "finish"],
            ]
            assert "its probe" not in out
        else:
            assert [row[-2:] for row in cells(out)] == [["probe, waiting", "probe"]]
            assert "next draw  not before its group is whole" in out
            assert "its probe  1 of 2 completions correct, so 2 more follow: number" in out


@pytest.mark.parametrize("files", ["null", []])
def test_what_was_known_before_the_run_is_told_with_what_it_is_worth(
    write_recipe, tmp_path, explain, files
):
    train = "[{{use: jsonl, path: {folder}/train.jsonl}}]"
    recipe = write_recipe(train=train, columns={"3+3=": {"pass_rate": 0.25}}, priors=files)
    folder = tmp_path / "known"
    folder.mkdir()
    simulate(folder, recipe, num_steps=1)
    assert (
        "prior    worth 8 completions at pass rate 0.25 before step 1, from the column pass_rate"
    ) in explain(folder, "3+3=").splitlines()
    out = explain(folder, "2+2=")
    assert "prior  " not in out and "offset  " not in out


def test_of_several_files_of_priors_the_one_that_counts_is_named(write_recipe, tmp_path, explain):
    files = []
    for name, rates in (("old", {"1+1=": 0.5, "3+3=": 0.75}), ("new", {"3+3=": 0.25})):
        files.append(str(tmp_path / f"{name}.parquet"))
        keys = [key_of(prompt) for prompt in rates]
        pq.write_table(pa.table({"key": keys, "pass_rate": list(rates.values())}), files[-1])
    train = "[{{use: jsonl, path: {folder}/train.jsonl}}]"
    recipe = write_recipe(train=train, priors=files)
    folder = tmp_path / "known"
    folder.mkdir()
    simulate(folder, recipe, num_steps=1)
    worth = "prior    worth 8 completions at pass rate"
    told = {prompt: explain(folder, prompt).splitlines() for prompt in PROMPTS}
    assert f"{worth} 0.25 before step 1, from new.parquet" in told["3+3="]
    assert f"{worth} 0.50 before step 1, from old.parquet" in told["1+1="]
    assert not any(line.startswith("prior") for line in told["2+2="])


def test_what_was_drawn_ahead_is_told_of_as_drawn(write_recipe, tmp_path, explain):
    recipe = write_recipe(train="[{{use: jsonl, path: {folder}/train.jsonl}}]")
    told = {}
    for num_ahead in (0, 2):
        folder = tmp_path / f"ahead-{num_ahead}"
        folder.mkdir()
        simulate(folder, recipe, num_steps=5, num_ahead=num_ahead)
        told[num_ahead] = explain(folder, "1+1=").split("\nafter step ")[1]
    assert told[0].startswith("5, that of the newest checkpoint:\n")
    assert told[2].startswith("5, drawn ahead of step 3, that of the newest checkpoint:\n")
    assert "\nin step 6:\n" in told[2]
    assert told[2].splitlines()[1:] == told[0].splitlines()[1:]
    folder = tmp_path / "all-drawn"
    folder.mkdir()
    simulate(folder, recipe, num_steps=9, num_ahead=1)
    assert "\nin step 10, if the run had more steps:\n" in explain(folder, "1+1=")


def test_draws_that_no_checkpoint_knows_yet_are_told_apart(write_recipe, tmp_path, explain):
    recipe = write_recipe(train="[{{use: jsonl, path: {folder}/train.jsonl}}]")
    told = {}
    for num_unsaved in (0, 2):
        folder = tmp_path / f"unsaved-{num_unsaved}"
        folder.mkdir()
        simulate(folder, recipe, num_steps=3, num_unsaved=num_unsaved)
        told[num_unsaved] = explain(folder, "1+1=")
    num_later = len(cells(told[2])) - len(cells(told[0]))
    assert num_later > 0
    assert f"knows nothing yet of {num_later} draw" in told[2]
    assert "knows nothing yet" not in told[0]
    assert told[2].split("\nafter step ")[1] == told[0].split("\nafter step ")[1]


def test_of_groups_of_one_nothing_is_said_that_is_about_mixed_groups(
    write_recipe, tmp_path, explain
):
    recipe = write_recipe(train="[{{use: jsonl, path: {folder}/train.jsonl}}]")
    parts = recipe.model_dump() | {"algorithm": {"name": "reinforce_pp"}}
    parts["rollout"]["group_size"] = 1
    folder = tmp_path / "ones"
    folder.mkdir()
    simulate(folder, Recipe.model_validate(parts), num_steps=2)
    out = explain(folder, "1+1=")
    assert {row[4] for row in cells(out)} == {"-"}
    assert "mixed with probability" not in out and "expected p(1-p) of its pass rate" in out


@pytest.mark.parametrize("leave", ["its last step", "an adapter"])
def test_a_run_that_is_over_has_no_next_step(write_recipe, tmp_path, explain, leave):
    train = "[{{use: jsonl, path: {folder}/train.jsonl}}]"
    recipe, folder = write_recipe(train=train), tmp_path / "over"
    folder.mkdir()
    num_steps = 9 if leave == "its last step" else 2
    simulate(folder, recipe, num_steps=num_steps)
    if leave == "an adapter":
        assert "in step 3:" in explain(folder, "1+1=")
        (folder / "adapter").mkdir()
    assert f"in step {num_steps + 1}, if the run were not over:" in explain(folder, "1+1=")


def test_a_stated_difficulty_that_tells_is_told_with_the_pass_rates_that_it_moves(
    write_recipe, tmp_path, explain
):
    train = "[{{use: jsonl, path: {folder}/train.jsonl}}]"
    difficulty = {"1+1=": 1.0, "2+2=": 3.0, "3+3=": 2.0, "4+4=": 2.0}
    recipe = write_recipe(
        train=train, columns={prompt: {"difficulty": d} for prompt, d in difficulty.items()}
    )
    folder = tmp_path / "stated"
    folder.mkdir()
    simulate(folder, recipe, num_steps=8)
    moved = {
        prompt: [line for line in explain(folder, prompt).splitlines() if "offset" in line]
        for prompt in difficulty
    }
    # 2+2= is the hardest and never solved; 3+3= and 4+4= are of average difficulty.
    [line] = moved["2+2="]
    words = line.split()
    assert line.startswith("offset   its difficulty moves what its bucket says by -")
    low, high = float(words[-1]), float(words[-3])
    shift = float(words[words.index("logits:") - 1])
    assert math.log(low / (1 - low)) - math.log(high / (1 - high)) == pytest.approx(shift, abs=0.1)
    assert len(moved["1+1="]) == 1 and "says by +" in moved["1+1="][0]
    assert not moved["3+3="] and not moved["4+4="]
