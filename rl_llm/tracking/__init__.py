"""Where metrics go beside metrics.jsonl; nothing that happens there harms a run.

Light to import: the process that logs to Weights & Biases needs neither torch nor the trainer.
"""

from rl_llm.tracking.event_file import TensorBoard
from rl_llm.tracking.numbers import Tracker
from rl_llm.tracking.wandb_process import Wandb

__all__ = ["TensorBoard", "Tracker", "Wandb"]
