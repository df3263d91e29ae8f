"""The loop, and everything that must survive a restart."""

from rl_llm.trainer.checkpoint import Identity
from rl_llm.trainer.evaluate import Evaluation, Evaluator, PassRate, sample_problems
from rl_llm.trainer.folder import RunFolder
from rl_llm.trainer.generation import Generation
from rl_llm.trainer.loop import Parts, Trainer, Watcher
from rl_llm.trainer.metrics import Counters, JsonlSink, Sink, TensorBoardSink, read_rows

__all__ = [
    "Counters",
    "Evaluation",
    "Evaluator",
    "Generation",
    "Identity",
    "JsonlSink",
    "Parts",
    "PassRate",
    "RunFolder",
    "Sink",
    "TensorBoardSink",
    "Trainer",
    "Watcher",
    "read_rows",
    "sample_problems",
]
