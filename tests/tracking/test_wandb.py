"""The real wandb, in the process that it runs in, against a server of ours or none."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from rl_llm.tracking import Wandb
from rl_llm.tracking.wandb_process import FINISHED_WITHIN_S

pytestmark = pytest.mark.slow

CLOSED = "http://127.0.0.1:9"
CONFIG = {"run": {"name": "adder", "steps": 4}, "rewards": [{"use": "exact_answer"}]}


@pytest.fixture
def use(monkeypatch):
    """Set variables of the environment; None takes one away."""

    def put(**variables):
        for name, value in variables.items():
            monkeypatch.delenv(name, raising=False)
            if value is not None:
                monkeypatch.setenv(name, value)

    return put


@pytest.fixture
def track(tmp_path, monkeypatch, server, use):
    """Log rows as a part of one run; return what is said of it, and how long the end took."""
    monkeypatch.chdir(tmp_path)
    Path("runs/adder").mkdir(parents=True)
    use(WANDB_MODE=None, WANDB_PROJECT=None, WANDB_ENTITY=None, **server.environment)

    def part(earlier, rows, *, exit_code=0, project=None, entity=None):
        folder = Path("runs/adder")
        options = {"project": project, "entity": entity, "rows": earlier}
        tracker = Wandb(folder, name="adder", config=CONFIG, **options)
        began = time.monotonic()
        for row in rows:
            tracker.write(row)
        assert time.monotonic() - began < 0.1
        tracker.finish(exit_code)
        assert tracker._process.poll() is not None
        return tracker.take_messages(), time.monotonic() - began

    return part


def row(step):
    return {"step": step, "eval/pass_rate/level=3": step / 2}


def rows(*steps):
    return [row(step) for step in steps]


def sync(*folders):
    """Send runs as the message says; wandb's program stands beside the interpreter."""
    program = Path(sys.executable).with_name("wandb")
    subprocess.run([program, "sync", *folders], check=True, capture_output=True, timeout=60)


def offline_parts():
    return sorted(Path("runs/adder/wandb").glob("offline-run-*"))


def test_a_run_has_the_name_the_recipe_and_every_finite_number_at_its_step(track, server):
    odd = {"none": None, "nan": float("nan"), "list": [1, 2], "text": "x", "whole": 3}
    said, _ = track([], [row(0), {**row(1), **odd}])
    ((run_id, run),) = server.runs.items()
    assert said == [f"wandb: {server.url}/me/rl-llm/runs/{run_id}"]
    assert (run.project, run.display_name, run.exit_codes) == ("rl-llm", "adder", [0])
    assert {key: run.config[key]["value"] for key in CONFIG} == CONFIG
    assert run.rows == [row(0), {**row(1), "whole": 3}]
    assert [line["_step"] for line in run.lines.values()] == [0, 1]


def test_project_and_team_come_from_the_recipe_before_the_environment(track, server, use):
    use(WANDB_PROJECT="theirs", WANDB_ENTITY="them")
    track([], rows(0), project="ours")
    (run,) = server.runs.values()
    assert (run.project, run.entity) == ("ours", "them")


@pytest.mark.parametrize("exit_code", [1, 130])
def test_a_run_that_did_not_finish_says_so(track, server, exit_code):
    track([], rows(0), exit_code=exit_code)
    (run,) = server.runs.values()
    assert run.exit_codes == [exit_code]


def test_a_resumed_run_goes_on_in_the_same_place_and_repeats_no_step(track, server):
    track([], rows(0, 1, 2, 3), exit_code=143)
    # The checkpoint was that of step 1.
    track(rows(0, 1), rows(2, 3, 4))
    (run,) = server.runs.values()
    assert (run.rows, run.exit_codes) == (rows(0, 1, 2, 3, 4), [143, 0])


def test_one_that_begins_late_gets_the_rows_from_before(track, server):
    track(rows(0, 1, 2), rows(3))
    (run,) = server.runs.values()
    assert run.rows == rows(0, 1, 2, 3)


def test_rows_are_lacking_until_they_were_logged(track, server):
    folder = Path("runs/adder")
    assert Wandb.lacks(folder, rows(0, 1)) and not Wandb.lacks(folder, [])
    track([], rows(0, 1))
    assert Wandb.lacks(folder, rows(0, 1, 2)) and not Wandb.lacks(folder, rows(0, 1))


def test_parts_that_were_kept_offline_make_one_run_when_they_are_sent(track, server, use):
    use(WANDB_MODE="offline")
    said, _ = track([], rows(0, 1, 2, 3), exit_code=143)
    (first,) = offline_parts()
    assert said == [f"wandb: offline; send the run with: wandb sync {first}"]
    time.sleep(1)  # The folder has the second in its name.
    track(rows(0, 1), rows(2, 3, 4))
    assert server.runs == {}
    for part in offline_parts():
        sync(part)
    (run,) = server.runs.values()
    assert (run.rows, run.exit_codes) == (rows(0, 1, 2, 3, 4), [143, 0])


def test_without_a_login_nothing_asks_and_the_rows_can_be_sent_later(track, server, use):
    use(WANDB_API_KEY=None)
    (said,), took_s = track([], rows(0, 1))
    (part,) = offline_parts()
    assert said == (
        "wandb: No API key configured. Use `wandb login` to log in; the run is logged offline, as "
        f"WANDB_MODE=offline does without a try; send it later with: wandb sync {part}"
    )
    assert took_s < 15
    use(WANDB_API_KEY=server.environment["WANDB_API_KEY"])
    sync(part)
    (run,) = server.runs.values()
    assert run.rows == rows(0, 1)


def test_a_server_that_is_not_there_costs_a_bounded_time_at_the_end_and_no_row(track, server, use):
    use(WANDB_BASE_URL=CLOSED)
    (said,), took_s = track([], rows(0, 1))
    (part,) = offline_parts()
    assert said.startswith("wandb: ") and f'"{CLOSED}/graphql"' in said
    assert said.endswith(f"; send it later with: wandb sync {part}")
    assert took_s < FINISHED_WITHIN_S
    use(WANDB_BASE_URL=server.url)
    sync(part)
    (run,) = server.runs.values()
    assert run.rows == rows(0, 1)


def test_a_run_that_is_stopped_waits_ten_seconds_at_most(track, use):
    use(WANDB_BASE_URL=CLOSED)
    (said,), took_s = track([], rows(0), exit_code=130)
    assert said == (
        "wandb: nothing was logged, for no server answered in time; the same command logs it "
        "later, and with WANDB_MODE=offline none is asked"
    )
    assert 10 <= took_s < 12


def test_a_server_that_goes_away_leaves_what_can_be_sent_later(track, server, use, monkeypatch):
    monkeypatch.setattr("rl_llm.tracking.wandb_process.FINISHED_WITHIN_S", 5.0)
    server.stops_behind_the_start = True
    said, took_s = track([], rows(0, 1))
    assert took_s < 7
    (part,) = sorted(Path("runs/adder/wandb").glob("run-*"))
    assert said[1:] == [
        f"wandb: not all was sent in time; send it with: wandb sync {part}",
    ]


def test_wandb_may_be_switched_off(track, server, use):
    use(WANDB_MODE="disabled")
    assert track([], rows(0))[0] == ["wandb: switched off by WANDB_MODE"]
    assert server.runs == {} and not Path("runs/adder/wandb").exists()


def test_a_folder_that_cannot_be_written_is_one_message_and_a_failed_run(track, server):
    Path("runs/adder/.wandb.json.partial").mkdir()
    (_, said), _ = track([], rows(0))
    assert said.startswith("wandb: [Errno 21] Is a directory") and said.endswith(
        "; the run goes on without it"
    )
    (run,) = server.runs.values()
    assert (run.rows, run.exit_codes) == ([], [1])


def test_a_disk_that_takes_no_more_marks_the_run_as_failed(track, server, tmp_path):
    folder = tmp_path / "runs" / "adder"
    tracker = Wandb(folder, name="x", config={}, project=None, entity=None, rows=rows(0))
    wait_until(lambda: (folder / "wandb.json").is_file(), within_s=30)
    (folder / ".wandb.json.partial").mkdir(exist_ok=True)
    for step in range(1, 50):
        tracker.write(row(step))
    wait_until(lambda: not tracker._reader.is_alive(), within_s=30)
    tracker.finish(0)
    (run,) = server.runs.values()
    assert run.exit_codes == [1] and len(run.rows) < 50
    assert tracker.take_messages()[-1].endswith("; the run goes on without it")


def test_a_process_that_dies_is_one_message_and_rows_are_still_taken(track, server, tmp_path):
    tracker = Wandb(tmp_path, name="x", config={}, project=None, entity=None, rows=[])
    tracker._process.kill()
    tracker._reader.join(10)
    for step in range(1000):
        tracker.write(row(step))
    tracker.finish(0)
    assert tracker.take_messages() == [
        "wandb: its process ended with code -9; the run goes on without it"
    ]


RUN = """\
import os, signal, sys, time
from pathlib import Path
from rl_llm.tracking import Wandb

folder = Path(sys.argv[1])
tracker = Wandb(folder, name="x", config={}, project=None, entity=None, rows=[])
tracker.write({"step": 0, "x": 1})
while not tracker.take_messages():
    time.sleep(0.01)
print(tracker._process.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_run_that_is_killed_is_marked_so_and_leaves_no_process(track, server, tmp_path):
    killed = subprocess.run([sys.executable, "-c", RUN, tmp_path], capture_output=True, timeout=60)
    assert killed.returncode == -signal.SIGKILL
    wait_until(lambda: not is_running(int(killed.stdout)), within_s=30)
    (run,) = server.runs.values()
    assert run.exit_codes == [137] and run.rows == [{"step": 0, "x": 1}]
    wait_until(lambda: not serving(int(killed.stdout)), within_s=10)


def is_running(pid):
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def serving(pid):
    """Return the processes that wandb has started for another one."""
    named = psutil.process_iter(["name", "cmdline"])
    found = [each.pid for each in named if each.info["name"] == "wandb-core"]
    return [each for each in found if is_running(each) and str(pid) in cmdline(each)]


def cmdline(pid):
    try:
        return psutil.Process(pid).cmdline()
    except psutil.NoSuchProcess:
        return []


def wait_until(holds, *, within_s):
    until = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.05)


def test_the_process_that_logs_imports_no_torch():
    program = "import sys, rl_llm.tracking.wandb_child; sys.exit('torch' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", program], timeout=60, env=os.environ).returncode == 0
    )
