"""A reward author and a recipe's author need no torch."""

import subprocess
import sys

import pytest

MODULES = [
    "rl_llm.scoring",
    "rl_llm.config",
    "rl_llm.plugins",
    "rl_llm.records",
    "rl_llm.cli.rewards",
]


@pytest.mark.parametrize("module", MODULES)
def test_importing_it_leaves_torch_out(module):
    code = (
        f"import sys, {module}; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
