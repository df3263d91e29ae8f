"""`rl-llm train`, as a file for `accelerate launch scripts/train.py RECIPE`."""

import sys

from rl_llm.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
