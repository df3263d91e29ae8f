"""`rl-llm push`: the adapter of a run, or the weights that it is merged into, to a model hub."""

import argparse
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from transformers.utils import logging as transformers_logging

from rl_llm.cli.adapter_files import base_of
from rl_llm.cli.progress import print_lines
from rl_llm.errors import PushRefused
from rl_llm.hub import Job, Place, check_repo_id, endpoint, push_now, token_source
from rl_llm.hub.access import LOG_IN
from rl_llm.hub.pusher import pushed_line
from rl_llm.hub.source import Source, find_source
from rl_llm.hub.tree import files_in

NAME = "push"
HELP = (
    "push the adapter of a run to a model hub, with its tokenizer, model card and recipe, as one "
    "commit"
)


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.epilog = "example: rl-llm push runs/quickstart my-name/adder"
    parser.add_argument(
        "run_dir",
        metavar="RUN",
        type=Path,
        help="the folder of a run, as in runs/quickstart, or one of its checkpoints",
    )
    parser.add_argument("repo_id", metavar="REPO_ID", help="the repository, as in my-name/adder")
    parser.add_argument(
        "--merge",
        action="store_true",
        help="push full weights with the adapter merged into them, which plain transformers loads",
    )
    parser.add_argument(
        "--public", action="store_true", help="make the repository public, or push to a public one"
    )
    parser.add_argument(
        "--revision",
        default="main",
        help="the branch, which is made where there is none (default: main)",
    )


def run(args: argparse.Namespace) -> int:
    """Push, and say where it lies now."""
    check_repo_id(args.repo_id, where="REPO_ID")
    source = find_source(args.run_dir)
    base_of(source.adapter)  # What is damaged is not pushed.
    if token_source() is None:
        raise PushRefused(f"pushing to {args.repo_id} needs a token, and there is none; {LOG_IN}")
    place = Place(repo_id=args.repo_id, revision=args.revision, is_merged=args.merge)
    console = Console()
    with tempfile.TemporaryDirectory(prefix="rl-llm-push-") as scratch:
        files = _files(source, place, Path(scratch))
        megabytes = sum(Path(file).stat().st_size for file in files.values()) / 1e6
        what = "merged weights" if args.merge else source.name
        line = f"{what} of {source.run.path}: {len(files)} files, {megabytes:.1f} MB"
        print_lines(console, [f"{line}, to {args.repo_id} at {endpoint()}"])
        job = Job(
            repo_id=args.repo_id,
            files=files,
            message=f"Add {what} of {source.run.path.resolve().name}",
            revision=args.revision,
            private=not args.public,
            is_merged=args.merge,
        )
        outcome = push_now(job, say=_say, shows_progress=sys.stderr.isatty())
    print_lines(console, [pushed_line(what, outcome, job)])
    return 0


def _say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


def _files(source: Source, place: Place, scratch: Path) -> dict[str, str]:
    """Return what goes into the repository, by its path there; what lies nowhere is made in
    `scratch`."""
    card = scratch / "README.md"
    card.write_text(source.card(place), encoding="utf-8")
    made = scratch / "model"
    made.mkdir()
    if place.is_merged or not source.has_tokenizer:
        _save_tokenizer(source, made)
    if place.is_merged:
        _merge(source, made)
    own = {} if place.is_merged else source.files(scratch)
    files = {name: str(file) for name, file in files_in(made).items()}
    recipe = source.write_recipe(scratch)
    return {**own, **files, recipe.name: str(recipe), card.name: str(card)}


def _save_tokenizer(source: Source, folder: Path) -> None:
    from rl_llm.policy import load_tokenizer

    model = source.recipe().model
    tokenizer = load_tokenizer(model.path, chat_template=model.chat_template)
    tokenizer.save_pretrained(str(folder))


def _merge(source: Source, folder: Path) -> None:
    """Write full weights; what generation is asked for stays the base model's own."""
    from rl_llm.policy import load_base
    from rl_llm.rollout.merged import MergedCheckpoint

    transformers_logging.disable_progress_bar()
    model = source.recipe().model
    base = load_base(model.path, dtype=model.dtype)
    MergedCheckpoint(base).write(source.adapter, folder)
    if base.generation_config is not None:
        # Unlike `save_pretrained`, this takes the settings of a model that breaks their rules.
        base.generation_config.to_json_file(folder / "generation_config.json", use_diff=True)
