"""Programs of the worst kind, for real: each ends within its limit and harms nothing around it."""

import os
import shutil
import socket
import subprocess
import sys
import sysconfig
import tempfile
import textwrap
import time
from contextlib import closing
from pathlib import Path

import psutil
import pytest

from rl_llm.errors import SandboxError
from rl_llm.scoring.sandbox import Sandbox

LIMIT_S = 1.0
DOUBLE = "print(int(input()) * 2)"


# Where Python's packages lie below /tmp, that is shown with them in it.
TMP = "/var/tmp" if sysconfig.get_path("purelib").startswith("/tmp/") else "/tmp"


@pytest.fixture
def sandbox(isolated, monkeypatch, tmp_path):
    """A sandbox of which no process and no file is left behind the test."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with closing(Sandbox(memory_mib=512)) as box:
        inside = os.readlink(f"/proc/{psutil.Process(box._process.pid).children()[0].pid}/ns/pid")
        assert inside != os.readlink("/proc/self/ns/pid")
        yield box
    assert box._process.returncode == 0
    assert processes_in(inside) == []
    assert [*tmp_path.iterdir()] == []


def processes_in(namespace):
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if os.readlink(f"/proc/{pid}/ns/pid") == namespace:
                found.append(int(pid))
        except OSError:
            continue
    return found


def run(sandbox, program, stdin="", limit_s=LIMIT_S):
    return sandbox.run(textwrap.dedent(program), stdin=stdin, limit_s=limit_s)


def printed(sandbox, program, stdin=""):
    ended = run(sandbox, program, stdin, limit_s=20.0)
    assert (ended.how, ended.code) == ("exit", 0)
    return ended.output.decode()


# What each ends as: by itself with a code, or by a limit.
HOSTILE = {
    "loops": ("while True: pass", ("time", -9)),
    "sleeps": ("import time; time.sleep(60)", ("time", -9)),
    "exits early": ("import os; os._exit(0)", ("exit", 0)),
    "leaves by sys.exit": ("import sys; sys.exit(3)", ("exit", 3)),
    "crashes": ("import ctypes; ctypes.string_at(0)", ("exit", -11)),
    "fills the memory": (
        "kept = []\nwhile True: kept.append(bytearray(1 << 26))",
        ("exit", 1),
    ),
    "fills the memory with a huge number": ("9 ** 9 ** 9 ** 9", ("time", -9)),
    "forks for ever": (
        "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass",
        ("time", -9),
    ),
    "starts threads for ever": (
        "import threading, time\nwhile True:\n"
        "    threading.Thread(target=time.sleep, args=[60]).start()",
        ("time", -9),
    ),
    "prints 100 MB": ("for _ in range(100): print('x' * 1_000_000)", ("output", -9)),
    "recurses": ("def f(): return f()\nf()", ("exit", 1)),
    "recurses without a limit": (
        "import sys\nsys.setrecursionlimit(10**9)\ndef f(x): return f([x])\nf(0)",
        None,
    ),
    "deletes its folder": ("import os; os.rmdir(os.getcwd())", ("exit", 1)),
    "empties its folder": (
        "import os, shutil\nopen('a', 'w').close()\nos.chmod('.', 0)\nshutil.rmtree(os.getcwd())",
        ("exit", 1),
    ),
    "fills its folder": (
        "for number in range(9):\n    open(str(number), 'wb').write(b'x' * (32 << 20))",
        ("exit", 1),
    ),
    "writes a file without end": (
        "file = open('a', 'wb')\nwhile True: file.write(b'x' * (1 << 20))",
        ("exit", 1),
    ),
    "opens files without end": ("kept = [open('/dev/null') for _ in range(100)]", ("exit", 1)),
    "leaves a daemon behind": (
        """
        import os, time
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                os.setsid()
                time.sleep(600)
            os._exit(0)
        os.wait()
        """,
        ("exit", 0),
    ),
    "leaves a daemon that prints for ever": (
        "import os\nif os.fork() == 0:\n    os.setsid()\n    while True: print('x' * 1000)",
        None,
    ),
    "closes its output": (
        "import os, time\nos.close(1)\nos.close(2)\ntime.sleep(60)",
        ("time", -9),
    ),
    "closes all files": ("import os, time\nos.closerange(0, 999)\ntime.sleep(60)", ("time", -9)),
    "reads for ever": ("import sys\nwhile True: sys.stdin.read()", ("time", -9)),
    "reads more than there is": ("input()\ninput()", ("exit", 1)),
    "prints what is not UTF-8": ("import os; os.write(1, b'\\xff\\xfe')", ("exit", 0)),
    "is not Python": ("I do not know", ("exit", 1)),
    "cannot be parsed": ("(" * 50_000, ("exit", 1)),
    "holds half a character": ("print('\ud83d')", ("exit", 1)),
    "ends all processes": ("import os, signal\nos.kill(-1, signal.SIGKILL)", None),
    "ends its group": ("import os, signal\nos.killpg(0, signal.SIGKILL)", ("exit", -9)),
    "stops the one that watches": (
        """
        import os, signal, time
        for number in {*signal.valid_signals()} - {signal.SIGCHLD}:
            try:
                os.kill(1, number)
            except OSError:
                pass
        time.sleep(60)
        """,
        ("time", -9),
    ),
    "stops itself": ("import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)", ("time", -9)),
    "ignores signals": (
        "import signal\nfor number in {*signal.valid_signals()} - {9, 19}:\n"
        "    signal.signal(number, signal.SIG_IGN)\nwhile True: pass",
        ("time", -9),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_program_ends_within_its_limit_and_the_next_one_runs_as_if_alone(sandbox, name):
    program, ends = HOSTILE[name]
    before = run(sandbox, DOUBLE, "4", limit_s=20.0)
    started = time.monotonic()
    ended = run(sandbox, program, "one line\n")
    assert time.monotonic() - started < LIMIT_S + 1
    assert ends is None or (ended.how, ended.code) == ends
    assert len(ended.output) <= (1 << 20) + (1 << 16)
    after = run(sandbox, DOUBLE, "4", limit_s=20.0)
    assert (before.how, before.code, before.output) == ("exit", 0, b"8\n")
    assert after == before


def test_nothing_is_left_of_a_program_when_its_end_is_told(sandbox):
    program, _ = HOSTILE["leaves a daemon behind"]
    (first,) = psutil.Process(sandbox._process.pid).children()
    run(sandbox, program)
    run(sandbox, HOSTILE["forks for ever"][0])
    assert first.children(recursive=True) == []
    assert printed(sandbox, "import os; print(os.getcwd(), os.listdir())") == "/program []\n"


def test_a_program_reaches_no_server_not_even_of_the_machine_itself(sandbox):
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as named:
        server.setblocking(False)
        named.bind("\0rl-llm-test")
        named.listen()
        said = printed(
            sandbox,
            f"""
            import socket
            for family, address in [
                (socket.AF_INET, ("127.0.0.1", {server.getsockname()[1]})),
                (socket.AF_INET, ("8.8.8.8", 53)),
                (socket.AF_UNIX, "\\0rl-llm-test"),
            ]:
                try:
                    socket.socket(family).connect(address)
                    print("connected")
                except OSError as error:
                    print(type(error).__name__)
            print([name for _, name in socket.if_nameindex()])
            """,
        )
        with pytest.raises(BlockingIOError):
            server.accept()
    assert said == "OSError\nOSError\nConnectionRefusedError\n['lo']\n"


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the numbers are of another machine")
def test_a_program_makes_no_calls_that_no_namespace_confines(sandbox):
    said = printed(
        sandbox,
        """
        import ctypes, socket
        libc = ctypes.CDLL(None, use_errno=True)
        def call(*given):
            ctypes.set_errno(0)
            return libc.syscall(*given), ctypes.get_errno()
        keys = [call(250, 0, -3, 1), call(248, b"user", b"a", b"b", 1, -3)]
        left = [call(29, 77, 4096, 0o1666), call(64, 77, 1, 0o1666), call(68, 77, 0o1666)]
        left += [call(240, b"left", 0o102, 0o666, None)]
        around = [call(425, 8, ctypes.create_string_buffer(256)), call(0x40000000 | 39)]
        print({*keys, *left, *around})
        for family in (socket.AF_VSOCK, socket.AF_UNIX, socket.AF_INET, socket.AF_INET6):
            try:
                socket.socket(family).close()
                print("made")
            except PermissionError:
                print("refused")
        """,
    )
    assert said == "{(-1, 1)}\nrefused\nmade\nmade\nmade\n"


def test_a_program_sees_nothing_of_the_environment_and_of_other_processes(sandbox, monkeypatch):
    monkeypatch.setenv("SOME_TOKEN", "s3cret")
    said = printed(
        sandbox,
        """
        import glob, os
        print(sorted(os.environ), os.environ["HOME"], os.getppid())
        for name in glob.glob("/proc/*/environ") + glob.glob("/proc/*/mem") + ["/proc/1/environ"]:
            try:
                print(open(name, "rb").read(1 << 16))
            except OSError:
                pass
        print([name for name in os.listdir("/proc") if name.isdigit()])
        """,
    )
    assert "s3cret" not in said
    names = "['HOME', 'LANG', 'OMP_NUM_THREADS', 'OPENBLAS_NUM_THREADS', 'PATH', 'PYTHONHASHSEED']"
    assert said.splitlines()[0] == f"{names} /program 1"
    assert said.splitlines()[-1] in ("['1', '2']", "['1', '3']", "[]")


def test_a_program_sees_no_files_but_the_systems_and_changes_none(sandbox, tmp_path):
    (tmp_path / "train.jsonl").write_text("the answers")
    said = printed(
        sandbox,
        f"""
        import json, os, sys
        print(os.path.exists({str(tmp_path)!r}), os.path.exists({__file__!r}))
        written = []
        library = os.path.dirname(json.__file__)
        for folder in ["/", "/usr", "/usr/lib", "/dev", "/proc", "/etc", library]:
            try:
                open(os.path.join(folder, "made"), "w")
                written.append(folder)
            except OSError:
                pass
        print(written, os.access(json.__file__, os.W_OK))
        open("made", "w").write("here")
        print(open("{TMP}/made").read())
        """,
    )
    assert said == "False False\n[] False\nhere\n"
    (tmp_path / "train.jsonl").unlink()


def test_a_program_may_import_what_is_installed_wherever_that_is(isolated, monkeypatch, tmp_path):
    folder = tmp_path / "with a ü"
    folder.mkdir()
    (folder / "mine.py").write_text("number = 7")
    monkeypatch.setattr("rl_llm.scoring.sandbox._imports", lambda: [str(folder)])
    with closing(Sandbox(memory_mib=256)) as sandbox:
        said = printed(
            sandbox,
            "import mine, tempfile\nprint(mine.number)"
            "\nprint(tempfile.TemporaryFile().write(b'x'))",
        )
    assert said == "7\n1\n"


def test_a_program_has_no_rights_and_gets_none(sandbox):
    said = printed(
        sandbox,
        """
        import ctypes, os
        libc = ctypes.CDLL(None)
        mounted = libc.mount(b"a", b"/program", b"tmpfs", 0, 0)
        print(os.getuid() != 0, libc.unshare(0x10000000), mounted)
        has_proc = os.path.exists("/proc/self")
        status = open("/proc/self/status").read().split("\\n") if has_proc else []
        print({line.split()[1] for line in status if line.startswith("Cap") and "Bnd" not in line})
        """,
    )
    assert said in ("True -1 -1\n{'0000000000000000'}\n", "True -1 -1\nset()\n")


def test_a_program_has_what_programs_use(sandbox):
    said = printed(
        sandbox,
        """
        import atexit, collections, heapq, multiprocessing, random, subprocess, sys, threading
        import numpy
        atexit.register(lambda: print("behind all"))
        threading.stack_size(1 << 26)
        sys.setrecursionlimit(10**6)
        said = subprocess.run(["echo", "ü"], capture_output=True, text=True).stdout.strip()
        print(open(0).read(), __name__, said)
        with multiprocessing.Pool(2) as pool:
            print(pool.map(abs, [-1, 2]), flush=True)
        threading.Thread(target=lambda: print(int(numpy.arange(4).sum()))).start()
        """,
        stdin="ä",
    )
    assert said == "ä __main__ ü\n[1, 2]\n6\nbehind all\n"


def test_of_a_sandbox_that_is_killed_nothing_is_left(isolated):
    with closing(Sandbox(memory_mib=256)) as sandbox:
        (first,) = psutil.Process(sandbox._process.pid).children()
        sandbox._process.kill()
        first.wait(timeout=10)
        with pytest.raises(SandboxError, match="the sandbox ended"):
            sandbox.run(DOUBLE, stdin="4", limit_s=1.0)


HOSTED = """
import sys, time
from contextlib import closing
from rl_llm.scoring.sandbox import Sandbox
with closing(Sandbox(memory_mib=256)) as sandbox:
    print("begun", flush=True)
    sandbox.run("import os, time; os.fork(); time.sleep(600)", stdin="", limit_s=600.0)
"""


def test_a_sandbox_ends_with_the_process_that_started_it(isolated):
    with subprocess.Popen([sys.executable, "-c", HOSTED], stdout=subprocess.PIPE) as host:
        assert host.stdout.readline() == b"begun\n"
        time.sleep(0.3)
        below = psutil.Process(host.pid).children(recursive=True)
        assert len(below) == 4
        host.kill()
        _, alive = psutil.wait_procs(below, timeout=10)
    assert alive == []


TRIES = """
import os, sys, time
from contextlib import closing
from rl_llm.scoring.sandbox import Sandbox, check_isolated
check_isolated()
with closing(Sandbox(memory_mib=256)) as sandbox:
    for program in sys.argv[1:]:
        started = time.monotonic()
        ended = sandbox.run(program, stdin="4", limit_s=1.0)
        assert time.monotonic() - started < 2.0
        print(ended.how, ended.code, ended.output.decode().strip())
"""
AS_NOBODY = (
    "exec setpriv --reuid=65534 --regid=65534 --clear-groups --bounding-set=-all --inh-caps=-all"
)


@pytest.mark.skipif(os.getuid() != 0, reason="all tests run as an ordinary user already")
@pytest.mark.skipif(shutil.which("setpriv") is None, reason="there is no setpriv")
def test_an_ordinary_user_has_the_same_sandbox(isolated, tmp_path):
    programs = [
        DOUBLE,
        "import os; print(os.getuid(), os.getpid() > 1, os.listdir('.'))",
        HOSTILE["forks for ever"][0],
        "import os; os.chmod('/program', 0)",
        textwrap.dedent(HOSTILE["leaves a daemon behind"][0]),
        "open('/usr/made', 'w')",
        "open('/proc/1/environ', 'rb').read()",
        DOUBLE,
    ]
    script = readable_python(tmp_path) + f'{AS_NOBODY} "$0" "$@"'
    command = ["unshare", "--mount", "bash", "-ec", script, sys.executable, "-c", TRIES]
    said = subprocess.run(
        [*command, *programs],
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
    )
    assert said.stderr == ""
    assert said.stdout.splitlines() == [
        *("exit 0 8", "exit 0 65534 True []", "time -9 ", "exit 0 ", "exit 0 ", "exit 1 "),
        *("exit 1 ", "exit 0 8"),
    ]


def readable_python(tmp_path):
    """Return commands that let any user read Python where it lies in a folder of root's."""
    base = Path(sys.base_prefix)
    closed = [folder for folder in reversed(base.parents) if not folder.stat().st_mode & 1]
    if not closed:
        return ""
    return (
        f"mount --bind '{base}' '{tmp_path}'; mount -t tmpfs -o mode=755 none '{closed[0]}'; "
        f"mkdir -p '{base}'; mount --bind '{tmp_path}' '{base}'; "
    )


REFUSED = """
import os, sys, tempfile
from contextlib import closing
from rl_llm.errors import SandboxError
from rl_llm.scoring.sandbox import Sandbox
tempfile.tempdir = sys.argv[1]
open("/proc/sys/user/max_user_namespaces", "w").write("0")
try:
    Sandbox(memory_mib=256)
except SandboxError as error:
    print(error)
with closing(Sandbox(memory_mib=256, allow_unisolated=True)) as sandbox:
    for program in sys.argv[2:]:
        ended = sandbox.run(program, stdin="4", limit_s=1.0)
        print(ended.how, ended.code, ended.output.decode().strip()[:5])
print(os.listdir(sys.argv[1]))
"""


@pytest.mark.skipif(shutil.which("unshare") is None, reason="there is no unshare")
def test_where_the_kernel_refuses_programs_run_only_if_that_is_allowed(isolated, tmp_path):
    mark = f"600.{os.getpid()}"
    daemon = f"""
import os
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.setsid()
        os.execv("/bin/sleep", ["sleep", "{mark}"])
    os._exit(0)
os.wait()
"""
    programs = [DOUBLE, daemon, HOSTILE["loops"][0], HOSTILE["prints 100 MB"][0], DOUBLE]
    said = subprocess.run(
        [
            "unshare",
            "--user",
            "--map-root-user",
            sys.executable,
            "-c",
            REFUSED,
            tmp_path,
            *programs,
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert said.stderr == ""
    assert said.stdout.splitlines() == [
        "programs cannot be isolated here: unshare: No space left on device",
        *("exit 0 8", "exit 0 ", "time -9 ", "output -9 xxxxx", "exit 0 8", "[]"),
    ]
    assert [p for p in psutil.process_iter(["cmdline"]) if mark in (p.info["cmdline"] or [])] == []


LEFT = """
import os, sys, tempfile, time
from contextlib import closing
from pathlib import Path
from rl_llm.scoring.sandbox import Sandbox
tempfile.tempdir = sys.argv[1]
open("/proc/sys/user/max_user_namespaces", "w").write("0")
with closing(Sandbox(memory_mib=256, allow_unisolated=True)) as sandbox:
    if len(sys.argv) > 2:
        print("begun", flush=True)
        sandbox.run("import time; time.sleep(600)", stdin="", limit_s=600.0)
"""


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("unshare") is None, reason="there is no unshare")
def test_without_isolation_a_killed_process_takes_its_program_and_the_next_removes_its_folder(
    isolated, tmp_path
):
    command = ["unshare", "--user", "--map-root-user", sys.executable, "-c", LEFT, str(tmp_path)]
    with subprocess.Popen([*command, "stay"], stdout=subprocess.PIPE) as host:
        assert host.stdout.readline() == b"begun\n"
        time.sleep(0.5)
        below = psutil.Process(host.pid).children(recursive=True)
        assert len(below) == 2
        (folder,) = tmp_path.iterdir()
        hour_ago = time.time() - 3600
        os.utime(folder, (hour_ago, hour_ago))
        subprocess.run(command, check=True)
        assert [*tmp_path.iterdir()] == [folder]  # Its sandbox is there.
        host.kill()
        _, alive = psutil.wait_procs(below, timeout=10)
    assert alive == []
    subprocess.run(command, check=True)
    assert [*tmp_path.iterdir()] == []
