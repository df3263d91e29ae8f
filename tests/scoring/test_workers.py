"""Rewards in worker processes: what they are given, what comes back, and when they end."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from rl_llm.config import RewardUse
from rl_llm.errors import RunError, Stopped
from rl_llm.scoring import build_rubric
from rl_llm.scoring.references import reference_faults


def scores_of(rubric, *groups):
    return [scored.scores for scored in rubric.score(groups)]


def test_workers_begin_while_the_next_group_is_waited_for(build, make_group, tmp_path):
    source = (
        "import pathlib\ndef r(completion):\n    pathlib.Path(completion).touch()\n    return 1"
    )
    seen = tmp_path / "seen"

    def groups():
        yield make_group(str(seen))
        deadline = time.monotonic() + 30
        while not seen.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert seen.exists()
        yield make_group(str(seen))

    assert len(list(build(source).score(groups()))) == 2


def test_scores_come_in_the_order_of_groups_and_completions_whoever_is_faster(build, make_group):
    source = "import time\ndef r(completion):\n    time.sleep(float(completion))\n    return 1.5\n"
    rubric = build(source.replace("1.5", "float(completion)"), num_workers=3, correct_at=0.0)
    delays = [["0.2", "0.0"], ["0.1", "0.3"], ["0.0", "0.05"]]
    scores = scores_of(rubric, *(make_group(*each) for each in delays))
    assert [[str(score.total) for score in each] for each in scores] == delays


def test_values_come_back_from_a_worker_exactly(build, make_group):
    rubric = build("def r(completion):\n    return eval(completion)\n")
    values = ["0.1 + 0.2", "-0.0", "5e-324", "1e308", "None", "True", "(0.1, 1/3, 2.0)"]
    (scores,) = scores_of(rubric, make_group(*values))
    given = [each.parts.get("r") for each in scores[:6]]
    assert repr(given) == "[0.30000000000000004, -0.0, 5e-324, 1e+308, None, 1.0]"
    assert scores[6].token_rewards == (0.1, 1 / 3, 2.0)


STATE = """
class Counts:
    def __init__(self):
        self.calls = 0
    def __call__(self, completion):
        self.calls += 1
        return float(self.calls)
r = Counts()
"""


def test_an_object_keeps_its_state_in_its_worker(build, make_group):
    (scores,) = scores_of(build(STATE, num_workers=1), make_group("a", "b", "c"))
    assert [each.total for each in scores] == [1.0, 2.0, 3.0]


ASYNC = """
import asyncio, time
waiting = set()
async def r(completion):
    if completion == "blocks":
        time.sleep(100)
    if completion == "waits":
        await asyncio.sleep(100)
    if completion == "cancels":
        raise asyncio.CancelledError
    return 1.0
"""


@pytest.mark.parametrize(
    ("hostile", "kind"), [("waits", "timeout"), ("blocks", "timeout"), ("cancels", "raised")]
)
def test_an_asynchronous_call_that_takes_too_long_fails_alone(build, make_group, hostile, kind):
    (scores,) = scores_of(build(ASYNC, timeout_s=0.5), make_group("a", hostile, "b"))
    assert [each.failures for each in scores] == [{}, {"r": kind}, {}]
    assert [each.total for each in scores] == [1.0, 0.0, 1.0]


def test_an_asynchronous_call_for_a_group_that_hangs_is_never_made_for_a_part_of_it(
    build, make_group
):
    source = """
import time
async def r(completions):
    if "hang" in completions and len(completions) > 1:
        time.sleep(100)
    return [1.0 / len(completions)] * len(completions)
"""
    hung, well = scores_of(
        build(source, timeout_s=0.5), make_group("a", "hang"), make_group("a", "b")
    )
    assert [each.failures for each in hung] == [{"r": "timeout"}] * 2
    assert [each.total for each in well] == [0.5, 0.5]


@pytest.mark.parametrize("argument", ["completion", "completions"])
def test_a_worker_that_is_replaced_behind_a_good_call_takes_nothing_back(
    build, make_group, tmp_path, argument
):
    source = f"""
import pathlib, subprocess, sys
async def r({argument}):
    with pathlib.Path({str(tmp_path / "calls")!r}).open("a") as file:
        file.write("x")
    for _ in range(9):
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    return [0.25] * 2 if {argument == "completions"} else 0.25
"""
    (scores,) = scores_of(build(source, timeout_s=30.0), make_group("a", "b"))
    assert [each.total for each in scores] == [0.25, 0.25]
    assert len((tmp_path / "calls").read_text()) == (1 if argument == "completions" else 2)


def test_an_option_may_be_of_what_the_file_of_the_reward_defines(build, make_group):
    source = "def shout(text):\n    return text.upper()\n"
    source += "def r(completion, *, norm=shout):\n    return float(norm(completion) == 'A')\n"
    (scores,) = scores_of(build(source), make_group("a", "b"))
    assert [(each.total, each.error) for each in scores] == [(1.0, None), (0.0, None)]


@pytest.mark.parametrize("signature", ["completions", "completions, **columns"])
def test_a_call_for_a_group_that_hangs_fails_that_group_alone(build, make_group, signature):
    rubric = build(
        f"""
import time
def r({signature}):
    if "hang" in completions:
        time.sleep(100)
    return [float(len(each)) for each in completions]
""".replace("{signature}", signature),
        timeout_s=0.5,
    )
    hung, well = scores_of(rubric, make_group("a", "hang"), make_group("a", "bb"))
    assert [each.failures for each in hung] == [{"r": "timeout"}] * 2
    assert [each.total for each in well] == [1.0, 2.0]


def test_512_completions_with_exact_answer_cost_at_most_50_ms(make_group):
    rubric = build_rubric([RewardUse(use="exact_answer")], columns=())
    groups = [make_group(*["<answer>7</answer>"] * 8, num_tokens=200) for _ in range(64)]
    times = []
    for _ in range(10):
        started = time.perf_counter()
        scores_of(rubric, *groups)
        times.append(time.perf_counter() - started)
    assert min(times) <= 0.05


PID = "import os\ndef r(completion):\n    return float(os.getpid())\n"


def test_a_reward_runs_where_its_file_or_the_recipe_says(build, make_group):
    def runs_here(source, **settings):
        ((score,),) = scores_of(build(source, **settings), make_group("a"))
        return score.total == os.getpid()

    assert not runs_here(PID)
    assert runs_here("INLINE = True\n" + PID)
    assert runs_here(PID, inline=True)
    assert not runs_here("INLINE = True\n" + PID, inline=False)
    assert not runs_here("INLINE = True\n" + PID, memory_gib=2)


def test_a_worker_has_the_environment_of_the_run_but_one_thread_and_no_ranks(
    build, make_group, monkeypatch
):
    monkeypatch.setenv("SOME_KEY", "7")
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "TORCHELASTIC_RUN_ID"):
        monkeypatch.setenv(name, "3")
    rubric = build("""
import os, sys
def r(completion):
    assert "torch" not in sys.modules
    assert not {"RANK", "WORLD_SIZE", "MASTER_ADDR", "TORCHELASTIC_RUN_ID"} & {*os.environ}
    return float(os.environ["SOME_KEY"]) + float(os.environ["OMP_NUM_THREADS"])
""")
    ((score,),) = scores_of(rubric, make_group("a"))
    assert (score.error, score.total) == (None, 8.0)


def test_what_a_reward_prints_is_not_the_runs(build, make_group, capfd):
    source = "import os\ndef r(completion):\n    print('noise')\n    os.system('echo more')\n"
    ((score,),) = scores_of(build(source + "    return 1.0\n"), make_group("a"))
    assert score.total == 1.0
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("breaks", "said"),
    [
        ("os._exit(1)", "ended its process with exit code 1"),
        ("raise ImportError('no')", "r.py cannot be loaded: line 3: ImportError: no"),
    ],
)
def test_a_file_that_loads_in_no_worker_ends_the_run_with_the_reason(
    build, make_group, breaks, said
):
    source = f"import os\nif os.getpid() != {os.getpid()}:\n    {breaks}\n"
    rubric = build(source + "def r(completion):\n    return 1.0\n", on_error="zero")
    with pytest.raises(RunError, match="reward 'r' cannot be loaded in a worker: ") as raised:
        scores_of(rubric, make_group("a"))
    assert said in str(raised.value) and "inline: true" in str(raised.value)


READY = """
import pathlib, time

def before_calls(options):
    time.sleep(0.4)
    with open(options["log"], "a") as log:
        log.write(f"ready for {options['to_give']}\\n")

def r(completion, *, log, to_give=0.5):
    return to_give if completion else time.sleep(9)

def read_reference(answer):
    return answer
"""


def test_getting_ready_is_once_a_worker_and_no_part_of_a_call(build, make_group, tmp_path):
    log = tmp_path / "log"
    rubric = build(READY, num_workers=1, timeout_s=0.3, log=str(log))
    scores = scores_of(rubric, make_group("a", "b"), make_group("", "c"))
    assert [[each.total for each in group] for group in scores] == [[0.5, 0.5], [0.0, 0.5]]
    assert [each.failures for each in scores[1]] == [{"r": "timeout"}, {}]
    assert log.read_text() == "ready for 0.5\n" * 2  # The second worker comes behind the timeout.


def test_getting_ready_is_for_calls_and_not_for_references(build, make_group, tmp_path):
    log = tmp_path / "log"
    rubric = build(READY, log=str(log))
    assert list(reference_faults(rubric.rewards, [make_group("a").problem])) == []
    assert not log.exists()


def test_a_reward_that_does_not_get_ready_ends_the_run_with_the_reason(
    build, make_group, monkeypatch
):
    source = "import time\ndef before_calls(options):\n    {}\ndef r(completion):\n    return 1.0\n"
    rubric = build(source.format("raise LookupError('no model')"))
    with pytest.raises(RunError, match=r"reward 'r' cannot be loaded in a worker: .*no model"):
        scores_of(rubric, make_group("a"))
    monkeypatch.setattr("rl_llm.scoring.worker.LOAD_LIMIT_S", 0.1)
    rubric = build(source.format("time.sleep(9)"), timeout_s=0.5)
    with pytest.raises(RunError, match=r"took longer than 0\.5 s \(a longer timeout_s"):
        scores_of(rubric, make_group("a"))


def test_a_worker_that_is_replaced_takes_the_file_that_the_run_began_with(
    build, make_group, tmp_path
):
    rubric = build("import os\ndef r(completion):\n    return 1.0 if completion else os._exit(1)\n")
    first = scores_of(rubric, make_group("a", ""))[0]
    (tmp_path / "r.py").write_text("def r(completion): half a sentence")
    (tmp_path / "r.py").unlink()
    again = scores_of(rubric, make_group("a", "a"))[0]
    assert [each.total for each in (*first, *again)] == [1.0, 0.0, 1.0, 1.0]


def test_columns_that_cannot_be_sent_are_a_failure_that_names_the_way_out(build, make_group):
    rubric = build("def r(odd):\n    return 1.0\n", columns=["odd"])
    ((score,),) = scores_of(rubric, make_group("a", odd=lambda: 1))
    assert score.failures == {"r": "raised"}
    assert "the problem cannot be sent to a worker" in score.error
    assert "set inline: true" in score.error


def test_a_column_that_a_worker_cannot_read_fails_its_own_problem(build, make_group):
    rubric = build("def r(completion):\n    return 1.0\n", num_workers=1)
    odd, well = scores_of(rubric, make_group("a", odd=Odd()), make_group("a"))
    assert "the problem cannot be sent to a worker: ModuleNotFoundError" in odd[0].error
    assert well[0].total == 1.0


class Odd:
    """What a worker knows nothing of."""

    def __reduce__(self):
        return _find, ("no_such_module_anywhere",)


def _find(name):
    return __import__(name)


HANG = "import time\ndef r(completion):\n    time.sleep(100)\n"


def test_a_signal_ends_a_run_that_waits_for_a_reward_at_once(build, make_group):
    def stop(number, frame):
        raise Stopped(128 + number)

    rubric = build(HANG, timeout_s=60)
    before = signal.signal(signal.SIGTERM, stop)
    timer = threading.Timer(1.0, os.kill, [os.getpid(), signal.SIGTERM])
    timer.start()
    started = time.monotonic()
    try:
        with pytest.raises(Stopped):
            scores_of(rubric, make_group("a", "b", "c"))
        rubric.close()
    finally:
        timer.join()
        signal.signal(signal.SIGTERM, before)
    assert time.monotonic() - started < 5


TRAINER = """
import os, sys, threading
from rl_llm.config import RewardUse
from rl_llm.records import Completion, Group, Problem
from rl_llm.scoring import build_rubric
from rl_llm.scoring.references import reference_faults

one = Completion(
    token_ids=(), logprobs=(), text=sys.argv[2], finish_reason="stop", policy_version=0
)
group = Group(problem=Problem(key="k", prompt="", answer=""), prompt_ids=(), completions=(one,) * 2)
rubric = build_rubric([RewardUse(use=f"{sys.argv[1]}:r", timeout_s=60)], columns=(), num_workers=2)
if sys.argv[3] == "closes":
    threading.Timer(1.0, rubric.close).start()
list(rubric.score([group]))
"""
FORKS_AND_LOOPS = """
import os, pathlib, time
def r(completion):
    if os.fork() == 0:
        time.sleep(600)
    pathlib.Path(completion, str(os.getpid())).touch()
    while True:
        pass
"""


@pytest.mark.slow
@pytest.mark.parametrize("end", ["is killed", "closes"])
def test_when_the_trainer_is_gone_so_are_its_workers_and_what_they_started(
    use_reward, marked, left, tmp_path, end
):
    use = use_reward(FORKS_AND_LOOPS)
    script, begun = tmp_path / "trainer.py", tmp_path / "begun"
    script.write_text(TRAINER)
    begun.mkdir()
    command = [sys.executable, script, use.use.removesuffix(":r"), begun, end]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as trainer:
        deadline = time.monotonic() + 60
        while len([*begun.iterdir()]) < 2 and end == "is killed" and time.monotonic() < deadline:
            time.sleep(0.05)
        if end == "is killed":
            assert len(marked()) == 5
            trainer.send_signal(signal.SIGKILL)
        assert ("CancelledError" in trainer.communicate(timeout=60)[1]) == (end == "closes")
    assert left() == []


def test_the_system_ends_a_worker_that_holds_the_interpreter_without_a_trainer():
    code = """
        import os
        os.cpu_count = lambda: 1
        from rl_llm.scoring import worker
        worker._limit_cpu(0.2)
        10 ** 10 ** 9
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=False, timeout=120)
    assert done.returncode == -signal.SIGPROF
