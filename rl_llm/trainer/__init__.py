"""The loop, and everything that must survive a restart."""

from rl_llm.trainer.evaluate import Evaluation, Evaluator, sample_problems
from rl_llm.trainer.folder import ResumePoint, RunFolder
from rl_llm.trainer.generation import Generation
from rl_llm.trainer.identity import Identity, check_identity
from rl_llm.trainer.loop import AGAIN, Trainer
from rl_llm.trainer.metrics import Counters, JsonlSink, Sink, read_rows
from rl_llm.trainer.parts import Parts, Watcher
from rl_llm.trainer.pending import HarvestReport, Pending
from rl_llm.trainer.pipeline import Overlap, Pipeline

__all__ = [
    "AGAIN",
    "Counters",
    "Evaluation",
    "Evaluator",
    "Generation",
    "HarvestReport",
    "Identity",
    "JsonlSink",
    "Overlap",
    "Parts",
    "Pending",
    "Pipeline",
    "ResumePoint",
    "RunFolder",
    "Sink",
    "Trainer",
    "Watcher",
    "check_identity",
    "read_rows",
    "sample_problems",
]
