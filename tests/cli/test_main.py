import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from rl_llm import __version__
from rl_llm.cli import failure
from rl_llm.cli import main as main_module
from rl_llm.cli.main import COMMANDS, main
from rl_llm.errors import CheckpointError, ConfigError, RunError

ROOT = Path(__file__).parents[2]


def run_python(code, *arguments):
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=60
    )


@pytest.fixture
def command(monkeypatch):
    """Stand a function in for the `run` of the command `schema`."""

    def install(run):
        module = SimpleNamespace(HELP="", configure=lambda parser: None, run=run)
        monkeypatch.setattr(main_module.importlib, "import_module", lambda name: module)

    return install


def failing_with(error):
    def run(args):
        raise error

    return run


@pytest.mark.parametrize(
    ("error", "code"),
    [(ConfigError("run.steps=0"), 2), (CheckpointError("no step"), 2), (RunError("all nan"), 1)],
)
def test_a_deliberate_error_is_its_message_and_its_exit_code(command, capsys, error, code):
    command(failing_with(error))
    assert main(["schema"]) == code
    assert capsys.readouterr() == ("", f"error: {error}\n")


def test_a_defect_keeps_its_traceback(command):
    command(failing_with(KeyError("lost")))
    with pytest.raises(KeyError, match="lost"):
        main(["schema"])


def test_a_file_that_this_user_may_not_open_is_named_and_is_no_defect(command, capsys):
    command(failing_with(PermissionError(13, "Permission denied", "/home/a/runs/b/draws.jsonl")))
    assert main(["schema"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: /home/a/runs/b/draws.jsonl: Permission denied; make it acc")
    assert said.count("\n") == 1


def test_a_commands_own_exit_code_is_returned(command):
    command(lambda args: 143)
    assert main(["schema"]) == 143


def test_ctrl_c_exits_with_130(command, capsys):
    command(failing_with(KeyboardInterrupt()))
    assert main(["schema"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_sigterm_unwinds_and_exits_with_143(command):
    unwound = []

    def run(args):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(10)
        finally:
            unwound.append(True)

    command(run)
    with pytest.raises(SystemExit) as stopped:
        main(["schema"])
    assert (stopped.value.code, unwound) == (143, [True])


def test_the_callers_sigterm_handler_is_put_back(command):
    before = signal.getsignal(signal.SIGTERM)
    command(lambda args: 0)
    main(["schema"])
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(
    "writes",
    [
        "s.recipe_table = lambda: 'x' * 10**6",
        "from rich import print; s.run = lambda args: [print('x' * 70) for _ in range(2000)]",
    ],
)
def test_a_reader_that_stops_reading_ends_the_command_quietly(writes):
    # 64 KiB fill the pipe, so `rl-llm` is still writing when its reader goes.
    program = f"import rl_llm.cli.schema as s; {writes}\n"
    program += "import sys; from rl_llm.cli.main import main; sys.exit(main(sys.argv[1:]))"
    writer = subprocess.Popen(
        [sys.executable, "-c", program, "schema", "--markdown"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    writer.stdout.read(10)
    writer.stdout.close()
    with writer.stderr as stderr:
        assert stderr.read() == b""
    assert writer.wait(timeout=60) == 141


def test_a_broken_pipe_that_is_not_stdout_is_a_defect(command, capfd):
    command(failing_with(BrokenPipeError("a worker died")))
    with capfd.disabled(), pytest.raises(BrokenPipeError, match="a worker died"):
        main(["schema"])


@pytest.mark.parametrize("arguments", [[], ["trian"], ["schema", "--nope"]])
def test_a_wrong_command_line_exits_with_2(capsys, arguments):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert "usage: rl-llm" in capsys.readouterr().err


def test_version_is_the_packages(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--version"])
    assert (stopped.value.code, capsys.readouterr().out) == (0, f"rl-llm {__version__}\n")


def test_help_lists_every_command_and_imports_none_of_them():
    program = (
        "import sys; from rl_llm.cli.main import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "print(sorted(m for m in sys.modules if m.startswith(('rl_llm.', 'torch', 'pydantic'))))"
    )
    out = run_python(program).stdout
    assert all(f"    {name} " in out for name in COMMANDS)
    light = ["failure", "main", "runtime"]
    light = ["rl_llm.cli", *(f"rl_llm.cli.{name}" for name in light), "rl_llm.errors"]
    assert out.splitlines()[-1] == str(light)


@pytest.mark.parametrize("arguments", [["rewards", "list"], ["schema"], ["data", "--help"]])
def test_a_light_command_does_not_import_torch(arguments):
    program = (
        "import sys; from rl_llm.cli.main import main\n"
        "try: code = main(sys.argv[1:])\n"
        "except SystemExit as stopped: code = stopped.code\n"
        "sys.exit(f'code {code}' if code else 'torch' in sys.modules)"
    )
    done = run_python(program, *arguments)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_keeps_to_the_protocol(name):
    module = __import__(f"rl_llm.cli.{name}", fromlist=["NAME"])
    assert name == module.NAME
    assert module.HELP[0].islower() and not module.HELP.endswith(".")
    assert callable(module.configure) and callable(module.run)


@pytest.mark.slow
def test_python_m_rl_llm_and_the_train_script_are_the_same_program():
    for program in (["-m", "rl_llm", "train"], [str(ROOT / "scripts" / "train.py")]):
        done = subprocess.run(
            [sys.executable, *program, "no-such-recipe.yaml"],
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 2
        assert done.stderr.startswith("error: there is no recipe 'no-such-recipe.yaml'")


def test_of_processes_that_fail_alike_before_they_know_each_other_the_first_speaks(
    command, capsys, monkeypatch
):
    waited = []
    monkeypatch.setattr(failure.time, "sleep", waited.append)
    command(failing_with(ConfigError("run.steps=0")))
    for local_rank in ("0", "1"):
        monkeypatch.setenv("LOCAL_RANK", local_rank)
        assert main(["schema"]) == 2
    # The launcher ends the second while it waits, unless it alone has failed.
    assert waited == [5.0]
    assert capsys.readouterr().err == "error: run.steps=0\n" * 2
