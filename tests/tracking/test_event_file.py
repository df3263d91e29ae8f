import subprocess
import sys

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from rl_llm.tracking import TensorBoard

ROW = {"step": 1, "eval/pass_rate/level=3": 0.25, "groups": 4, "none": None, "list": [1, 2]}


def scalars(folder):
    events = EventAccumulator(str(folder)).Reload()
    return {
        tag: [(event.step, event.value) for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }


def test_every_finite_number_of_a_row_is_a_scalar_under_its_own_key(tmp_path):
    tracker = TensorBoard(tmp_path, last_step=-1)
    tracker.write({**ROW, "step": 0, "nan": float("nan"), "inf": float("inf")})
    tracker.write(ROW)
    tracker.finish(0)
    assert scalars(tmp_path) == {
        "eval/pass_rate/level=3": [(0, 0.25), (1, 0.25)],
        "groups": [(0, 4.0), (1, 4.0)],
    }
    assert tracker.take_messages() == []


def test_a_row_is_in_the_file_at_once(tmp_path):
    tracker = TensorBoard(tmp_path, last_step=-1)
    tracker.write(ROW)
    assert scalars(tmp_path)["groups"] == [(1, 4.0)]
    tracker.finish(0)


def test_steps_behind_the_checkpoint_are_hidden_and_come_once(tmp_path):
    first = TensorBoard(tmp_path, last_step=-1)
    for step in range(5):
        first.write({"step": step, "x": step})
    first.finish(143)
    second = TensorBoard(tmp_path, last_step=2)
    for step in (3, 4, 5):
        second.write({"step": step, "x": 10 * step})
    second.finish(0)
    assert scalars(tmp_path)["x"] == [(0, 0), (1, 1), (2, 2), (3, 30), (4, 40), (5, 50)]


def test_a_folder_that_cannot_be_made_is_one_message_and_no_error(tmp_path):
    (tmp_path / "file").touch()
    folder = tmp_path / "file" / "tensorboard"
    tracker = TensorBoard(folder, last_step=-1)
    tracker.write(ROW)
    tracker.finish(0)
    assert tracker.take_messages() == [
        f"tensorboard: {folder} cannot be written: Not a directory; the run goes on without it, "
        "and metrics.jsonl has every number"
    ]
    assert tracker.take_messages() == []


LIMITED = """\
import resource, sys
from pathlib import Path
from rl_llm.tracking import TensorBoard

tracker = TensorBoard(Path(sys.argv[1]), last_step=-1)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
for step in range(100):
    tracker.write({"step": step, "x": step})
tracker.finish(0)
print(*tracker.take_messages(), sep="\\n")
"""


def test_a_disk_that_takes_no_more_is_one_line_and_no_traceback(tmp_path):
    folder = tmp_path / "tensorboard"
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, folder], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (
        f"tensorboard: {folder} cannot be written: File too large; the run goes on without it, and "
        "metrics.jsonl has every number\n"
    )
    assert 20 <= len(scalars(folder)["x"]) <= 25  # Of 40 bytes each.
