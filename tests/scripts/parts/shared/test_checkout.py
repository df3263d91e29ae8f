"""A part runs in a process of its own, wherever that is started."""

import re
import subprocess
from pathlib import Path

import pytest

from rl_llm.plugins import load_module

SCRIPTS = Path(__file__).parents[4] / "scripts"


@pytest.fixture(scope="module")
def checkout():
    return load_module(SCRIPTS / "parts" / "shared" / "checkout.py")


def test_a_part_finds_its_own_kind_and_this_checkouts_package_from_any_folder(
    checkout, tmp_path, monkeypatch
):
    monkeypatch.delenv("PYTHONPATH", raising=False)
    probe = "import parts.kl.arms, rl_llm; print(parts.__file__, rl_llm.__file__)"
    (tmp_path / "probe.py").write_text(probe, encoding="utf-8")
    found = subprocess.run(
        checkout.program("probe"),
        env=checkout.environment(),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    folders = (SCRIPTS / "parts", SCRIPTS.parent / "rl_llm")
    assert found.stdout.split() == [str(folder / "__init__.py") for folder in folders]


def test_a_search_path_that_was_there_stays_behind_this_checkout(checkout, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "mine")
    found = checkout.environment(OMP_NUM_THREADS="7")
    assert found["PYTHONPATH"] == f"{SCRIPTS.parent}:{SCRIPTS}:mine"
    assert found["OMP_NUM_THREADS"] == "7"


def test_every_part_that_a_program_starts_is_there_and_can_be_started():
    started = {
        name
        for file in SCRIPTS.glob("*.py")
        for name in re.findall(r'"(parts\.[\w.]+)"', file.read_text(encoding="utf-8"))
    }
    assert {"parts.kl.run", "parts.vs_trl.peer"} <= started
    for name in started:
        file = SCRIPTS / f"{name.replace('.', '/')}.py"
        assert 'if __name__ == "__main__":' in file.read_text(encoding="utf-8"), name
