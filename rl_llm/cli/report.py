"""`rl-llm report`: the HTML report of a run."""

import argparse
from pathlib import Path

NAME = "report"
HELP = "write RUN_DIR/report.html: plots, pass rates and sample completions of a run in one file"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.epilog = "example: rl-llm report runs/quickstart"
    parser.add_argument(
        "run_dir", metavar="RUN_DIR", type=Path, help="the folder of a run, as in runs/quickstart"
    )


def run(args: argparse.Namespace) -> int:
    """Write the report and print its path; matplotlib loads only here."""
    from rl_llm.report import write_report

    print(write_report(args.run_dir))
    return 0
