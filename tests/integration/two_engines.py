"""`rl-llm` on two ranks, the second of which has a vLLM: what test_two_processes.py launches."""

import os
import sys

from rl_llm.cli import engines
from rl_llm.cli.main import main

if os.environ["RANK"] == "1":
    there = engines.EngineChoice(name="vllm", why="there is a GPU, and vLLM 0.32 is installed")
    engines.choose_engine = lambda recipe, **_: there
sys.exit(main(sys.argv[1:]))
