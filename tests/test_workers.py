"""How the tests are spread over the workers of pytest-xdist."""

import os
import re
import subprocess
import sys

import pytest

MODULE = """\
import pytest

pytestmark = pytest.mark.xdist_group("together")


@pytest.mark.parametrize("number", range(6))
def test_anything(number):
    pass
"""


@pytest.mark.slow
def test_one_worker_runs_all_tests_of_a_group(tmp_path):
    """A group fills the machine; a pytest that xdist does not know spreads it in silence."""
    for name in ("test_a.py", "test_b.py"):
        (tmp_path / name).write_text(MODULE, encoding="utf-8")
    outside = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-v", "-n2", "--dist=loadgroup", "-p", "no:cacheprovider"],
        cwd=tmp_path,
        env=outside,
        capture_output=True,
        text=True,
        timeout=120,
    )
    workers = re.findall(r"\[(gw\d)\].*PASSED", done.stdout)
    assert len(workers) == 12, done.stdout + done.stderr
    assert len(set(workers)) == 1
