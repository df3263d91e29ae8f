"""What all tests share: one thread for each worker, threads that sleep while they wait, since on a
busy machine spinning ones starve each other, and examples that are the same in every run.

The workers of pytest-xdist already use every core. The environment is read when torch is imported,
so it is set before anything else happens; the processes that tests start inherit it.
"""

import os

import pytest
from hypothesis import HealthCheck, settings

from rl_llm.errors import SandboxError
from rl_llm.scoring.sandbox import check_isolated

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# No deadline and no limit on slow inputs: both measure the load of the machine.
settings.register_profile(
    "steady",
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("steady")


@pytest.fixture
def isolated():
    """Skip where the kernel does not let programs be isolated."""
    try:
        check_isolated()
    except SandboxError as error:
        pytest.skip(str(error))
