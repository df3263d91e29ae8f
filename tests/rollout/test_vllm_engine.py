"""Real vLLM on the shipped model, on a CPU: what it draws, how likely it says that was, and whose
weights it drew with.

The engines of this module are started one after another, each once.
"""

import os
import shutil
import tempfile
from contextlib import closing
from pathlib import Path

import psutil
import pytest
import torch

from rl_llm.cli.engines import find_vllm
from rl_llm.config.rollout import VllmSection
from rl_llm.errors import EngineLost, ModelError
from rl_llm.policy import load_base, load_tokenizer, stop_token_ids
from rl_llm.policy.forward import ResponseScorer
from rl_llm.policy.model import model_location
from rl_llm.policy.pack import TrainGroup, TrainRow, collate
from rl_llm.rollout.hf_engine import TransformersEngine
from rl_llm.rollout.prompts import PromptEncoder
from rl_llm.rollout.vllm_engine import VllmEngine
from rl_llm.rollout.vllm_settings import VllmSettings
from rl_llm.rollout.vllm_sleep import SleepCycle

FOUND = find_vllm()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("vllm"),
    pytest.mark.skipif(FOUND is None or not FOUND.for_cpus, reason="needs vLLM's build for CPUs"),
]


@pytest.fixture(scope="module", autouse=True)
def as_users_start_it():
    """TRL, which other tests of a worker import, sets the variable that lets vLLM print."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("VLLM_LOGGING_LEVEL", raising=False)
        yield


MODEL = "data/models/carry-adder"
CPU = torch.device("cpu")
PROMPTS = ["4+9=", "47+38=", "9999+1=", "123456+654321=", "7+0=", "5082+9471=", "66+77="]
LAUNCHED = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "10.0.0.9", "MASTER_PORT": "1"}
WAYS = [("float32", "merged"), ("float32", "adapter"), ("bfloat16", "merged")]


def settings(dtype="float32", publish="merged", **changes):
    section = VllmSection(publish=publish, kv_cache_gib=0.25)
    values = {
        "location": model_location(MODEL),
        "dtype": dtype,
        "device": CPU,
        "section": section,
        "max_model_len": 224,
        "max_batch_rows": 64,
        "lora_rank": 8,
        "seed": 3,
    }
    return VllmSettings(**values | changes)


def start(given, base=None):
    base = load_base(MODEL, dtype=given.dtype) if base is None else base
    tokenizer = load_tokenizer(MODEL)
    stop_ids = stop_token_ids(base, tokenizer)
    return VllmEngine(given, base, PromptEncoder(tokenizer), stop_ids=stop_ids)


@pytest.fixture(scope="module", params=WAYS, ids="-".join)
def started(request):
    """An engine, its dtype, and how it publishes; started as a rank of a launcher would."""
    dtype, publish = request.param
    before = dict(os.environ)
    os.environ.update(LAUNCHED)
    try:
        engine = start(settings(dtype, publish))
        assert {name: os.environ[name] for name in LAUNCHED} == LAUNCHED
    finally:
        for name in LAUNCHED:
            os.environ.pop(name)
    assert dict(os.environ) == before
    with closing(engine):
        yield engine, dtype, publish


@pytest.fixture
def engine(started):
    return started[0]


def drawn(engine, requests):
    return {
        group.problem.prompt: [c.token_ids for c in group.completions]
        for group in engine.complete(requests)
    }


def recomputed(base, groups, *, temperature):
    """Return the trainer's log-probability of every drawn token beside the engine's."""
    rows = [
        TrainGroup(
            prompt_ids=group.prompt_ids,
            rows=tuple(
                TrainRow(token_ids=c.token_ids, engine_logprobs=c.logprobs, advantage=1.0)
                for c in group.completions
            ),
        )
        for group in groups
    ]
    batch = collate(rows, pad_id=0, device=CPU)
    with torch.no_grad():
        ours = ResponseScorer(base, temperature=temperature)(batch).logprobs_BT
    return ours[batch.response_mask_BT], batch.engine_logprobs_BT[batch.response_mask_BT]


def test_the_very_first_tokens_may_be_a_handful(engine, ask):
    assert len(drawn(engine, [ask("4+9=", completions=1, temperature=0.0)])["4+9="]) == 1


def test_after_three_training_steps_greedy_outputs_are_those_of_transformers(
    started, ask, make_engine, trained_adapter, write_adapter, tmp_path
):
    engine, dtype, _ = started
    if dtype == "bfloat16":
        pytest.skip("in bfloat16 the two round ties differently")
    requests = [ask(prompt, completions=1, temperature=0.0) for prompt in PROMPTS]
    twin = make_engine(load_base(MODEL, dtype=dtype))
    answers = []
    for version, folder in enumerate(
        (write_adapter(tmp_path / "zero", deviation=0.0), trained_adapter)
    ):
        engine.load_weights(folder, version=version)
        twin.load_weights(folder, version=version)
        answers.append(drawn(engine, requests))
        assert answers[-1] == drawn(twin, requests)
    assert answers[0] != answers[1]


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0, 1.6])
def test_logprobs_are_those_the_trainer_recomputes(started, ask, trained_adapter, temperature):
    engine, dtype, _ = started
    engine.load_weights(trained_adapter, version=3)
    base = load_base(MODEL, dtype=dtype)
    twin = TransformersEngine(
        base, PromptEncoder(load_tokenizer(MODEL)), stop_ids=[1], max_batch_rows=1
    )
    twin.load_weights(trained_adapter, version=3)
    requests = [ask(prompt, completions=8, temperature=temperature) for prompt in PROMPTS]
    groups = list(engine.complete(requests))
    ours, theirs = recomputed(twin._model, groups, temperature=temperature or 1.0)
    assert len(ours) > 1000
    assert (ours - theirs).abs().mean() < (0.01 if dtype == "float32" else 0.05)
    if dtype == "float32":
        assert (ours - theirs).abs().max() < 0.01


def test_a_publication_changes_what_is_drawn_and_a_zero_adapter_gives_the_base_again(
    engine, ask, write_adapter, tmp_path
):
    requests = [ask(prompt, completions=4) for prompt in PROMPTS]
    seen = []
    for version, deviation in enumerate((0.0, 0.05, 0.0)):
        folder = write_adapter(tmp_path / str(version), deviation=deviation)
        engine.load_weights(folder, version=version)
        shutil.rmtree(folder)
        seen.append(drawn(engine, requests))
    assert seen[0] == seen[2] != seen[1]


def test_whole_blocks_of_a_prompt_are_computed_again_by_newly_published_weights(
    started, ask, make_engine, write_adapter, tmp_path
):
    engine, dtype, _ = started
    if dtype == "bfloat16":
        pytest.skip("in bfloat16 the two round ties differently")
    prompt = "1234567+7654321=" * 8  # 128 tokens: 4 blocks
    twin = make_engine(load_base(MODEL, dtype=dtype))
    answers = []
    for version, deviation in enumerate((0.0, 0.05)):
        folder = write_adapter(tmp_path / str(version), deviation=deviation)
        engine.load_weights(folder, version=version)
        twin.load_weights(folder, version=version)
        request = ask(prompt, completions=1, temperature=0.0, max_new_tokens=24)
        (group,), (expected,) = engine.complete([request]), twin.complete([request])
        assert group.completions[0].token_ids == expected.completions[0].token_ids
        assert group.completions[0].logprobs == pytest.approx(
            expected.completions[0].logprobs, abs=0.01
        )
        answers.append(group.completions[0].logprobs)
    assert answers[0] != pytest.approx(answers[1], abs=0.05)


def test_completions_carry_the_version_that_drew_them(engine, ask, write_adapter, tmp_path):
    engine.load_weights(write_adapter(tmp_path / "a", deviation=0.0), version=41)
    (group,) = engine.complete([ask("4+9=")])
    assert {c.policy_version for c in group.completions} == {41}


def test_a_completion_ends_with_the_stop_token_exactly_when_it_stopped(engine, ask):
    reasons = set()
    for group in engine.complete([ask(p, completions=8, max_new_tokens=30) for p in PROMPTS]):
        assert len(group.completions) == 8
        for completion in group.completions:
            reasons.add(completion.finish_reason)
            assert 1 not in completion.token_ids[:-1]
            assert (completion.token_ids[-1] == 1) == (completion.finish_reason == "stop")
            assert len(completion.token_ids) == len(completion.logprobs) <= 30
            if completion.finish_reason == "length":
                assert len(completion.token_ids) == 30
            assert "<eos>" not in completion.text
    assert reasons == {"stop", "length"}


def test_the_same_stream_draws_the_same_and_another_draws_otherwise(engine, ask):
    draw = [
        drawn(engine, [ask("123456+654321=", completions=8, stream_key=key)])
        for key in (2**63 - 1, 2**63 - 1, 7)
    ]
    assert draw[0] == draw[1] != draw[2]
    assert len(set(draw[0]["123456+654321="])) > 1


def test_short_groups_do_not_wait_for_a_long_one(engine, ask):
    long = ask("99999999+99999999=", completions=4, max_new_tokens=200)
    short = [ask(prompt, completions=4, max_new_tokens=4) for prompt in PROMPTS]
    finished = [group.problem.prompt for group in engine.complete([long, *short])]
    assert finished[-1] == "99999999+99999999=" and len(finished) == 8


def test_a_call_that_is_left_in_the_middle_leaves_nothing_behind(engine, ask):
    groups = engine.complete([ask(p, max_new_tokens=4 + 90 * (p == "7+0=")) for p in PROMPTS])
    next(groups)
    groups.close()
    assert drawn(engine, [ask("4+9=")]).keys() == {"4+9="}


def test_a_groups_prompt_is_prefilled_about_once(engine, ask, monkeypatch):
    core, seen = engine._llm.llm_engine.engine_core, []
    receive = core.get_output

    def listen():
        outputs = receive()
        seen.extend(o.prefill_stats for o in outputs.outputs if o.prefill_stats is not None)
        return outputs

    monkeypatch.setattr(core, "get_output", listen)
    engine._llm.reset_prefix_cache()
    prompt = "1234567+7654321=" * 8  # 128 tokens: 4 blocks
    list(engine.complete([ask(prompt, completions=8, max_new_tokens=4)]))
    assert [stats.num_prompt_tokens for stats in seen] == [128] * 8
    # What is left of the other seven is their last block, which gives the first token.
    assert sum(stats.num_computed_tokens for stats in seen) == 128 + 7 * 32


def test_more_prompts_than_one_pass_takes_are_drawn_with_their_seeds(engine, ask):
    # 60 prompts of 120 tokens, and vLLM computes 4,096 at once.
    prompts = [f"{10_000_000 + 7919 * i}+1=0" * 10 for i in range(60)]
    requests = [
        ask(p, completions=1, max_new_tokens=8, stream_key=i) for i, p in enumerate(prompts)
    ]
    assert len(drawn(engine, requests)) == 60


def test_a_prompt_without_room_for_its_completion_is_an_error_with_the_way_out(engine, ask):
    with pytest.raises(ModelError, match=r"max_new_tokens=222.*224 positions; use at most 220"):
        list(engine.complete([ask("4+9=", max_new_tokens=222)]))


def test_no_requests_give_no_groups(engine):
    assert list(engine.complete([])) == []


def test_rest_is_no_hindrance_where_there_is_no_gpu(engine, ask):
    engine.rest()
    assert drawn(engine, [ask("4+9=")])


def test_an_engine_that_sleeps_wakes_its_weights_then_its_cache_and_draws_the_same(
    engine, ask, write_adapter, tmp_path, monkeypatch
):
    """vLLM on a CPU refuses `enable_sleep_mode`, and goes through its states of sleep all the same,
    with the memory kept."""
    requests = [ask(prompt, completions=4) for prompt in PROMPTS]
    folder = write_adapter(tmp_path / "adapter", deviation=0.05)
    engine.load_weights(folder, version=1)
    expected, asleep = drawn(engine, requests), []
    monkeypatch.setattr(
        engine, "_cycle", SleepCycle(engine._llm, sleeps=True, make_room=torch.cuda.empty_cache)
    )
    core = engine._llm.llm_engine.engine_core

    def note_sleep():
        asleep.append(core.is_sleeping())

    for use in (engine.rest, note_sleep, lambda: engine.load_weights(folder, version=2)):
        use()
    note_sleep()
    assert drawn(engine, requests) == expected
    note_sleep()
    assert asleep == [True, True, False]


def children():
    """Return the processes that this one started, less the one that Python keeps for itself."""
    found = psutil.Process().children(recursive=True)
    return [child for child in found if "resource_tracker" not in " ".join(child.cmdline())]


@pytest.fixture
def temporary(monkeypatch):
    """Return the folder of temporary files: a short name, as that of a socket has to be."""
    folder = Path(tempfile.mkdtemp(prefix="t"))
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    shutil.rmtree(folder)


def test_an_engine_says_how_it_started_and_leaves_nothing_behind(ask, temporary):
    before = {child.pid for child in children()}
    engine = start(settings())
    assert {child.pid for child in children()} > before
    (said,) = engine.take_messages()
    assert said.startswith("vLLM 0.") and "published merged" in said and " of 224 " in said
    assert engine.take_messages() == []
    engine.close()
    engine.close()
    assert {child.pid for child in children()} == before
    assert list(temporary.iterdir()) == []
    with pytest.raises(EngineLost, match="closed"):
        list(engine.complete([ask("4+9=")]))


@pytest.mark.parametrize("victim", ["EngineCore", "Worker"])
def test_a_process_that_is_killed_is_one_error_with_the_way_out(ask, temporary, victim):
    before = set(children())
    with closing(start(settings())) as engine:
        groups = engine.complete([ask(p, max_new_tokens=2 + 200 * (p == "7+0=")) for p in PROMPTS])
        next(groups)
        ours = set(children()) - before
        (process,) = [child for child in ours if victim in " ".join(child.cmdline())]
        process.kill()
        with pytest.raises(EngineLost, match=r"vLLM ended while .* was ended by SIGKILL, as"):
            list(groups)
        with pytest.raises(EngineLost) as lost:
            list(engine.complete([ask("4+9=")]))
    assert "\n" not in str(lost.value)
    assert psutil.wait_procs(ours, timeout=30)[1] == []
    assert [file for file in temporary.rglob("*") if file.is_socket()] == []


def test_heads_that_vllm_cannot_run_are_refused_before_it_starts(base):
    base.config.head_dim = 48
    with pytest.raises(ModelError, match=r"48 dimensions.*32, 64.*engine=transformers"):
        start(settings(), base)


def test_a_model_that_vllm_does_not_know_is_one_error(tmp_path):
    folder = tmp_path / "unknown"
    shutil.copytree(model_location(MODEL), folder)
    file = folder / "config.json"
    text = file.read_text().replace("LlamaForCausalLM", "NovelForCausalLM")
    file.write_text(text.replace('"llama"', '"novel"'))
    base = load_base(MODEL, dtype="float32")
    with pytest.raises(ModelError, match=r"vLLM cannot run.*novel.*engine=transformers") as told:
        start(settings(location=str(folder)), base)
    assert str(told.value).count("\n") == 0


def test_what_ends_vllm_while_it_starts_is_quoted(tmp_path):
    folder = tmp_path / "broken"
    shutil.copytree(model_location(MODEL), folder)
    (folder / "model.safetensors").write_bytes(b"no weights")
    base = load_base(MODEL, dtype="float32")
    with pytest.raises(EngineLost, match=r"ended while it started: .*[Ss]afetensor") as told:
        start(settings(location=str(folder)), base)
    assert str(told.value).count("\n") == 0
