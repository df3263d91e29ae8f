"""`rl-llm report`: the HTML report of a run, or of two runs side by side."""

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
    parser.add_argument(
        "other_dir",
        metavar="OTHER_DIR",
        type=Path,
        nargs="?",
        help="a second run: writes RUN_DIR/report-and-OTHER.html instead, with the curves of both "
        "over each other and the settings in which they differ",
    )


def run(args: argparse.Namespace) -> int:
    """Write the page and print its path; matplotlib loads only here."""
    from rl_llm.report import write_pair, write_report

    if args.other_dir is None:
        print(write_report(args.run_dir))
    else:
        print(write_pair(args.run_dir, args.other_dir))
    return 0
