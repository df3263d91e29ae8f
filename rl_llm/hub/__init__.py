"""What other people see of a trained adapter: its model card, and the push to a model hub.

Light to import: the process that pushes needs neither torch nor the trainer.
"""

from rl_llm.hub.access import check_repo_id, endpoint, token_source
from rl_llm.hub.card import Place, render_card, write_card
from rl_llm.hub.job import Job, Outcome
from rl_llm.hub.pusher import Patience, Pusher, push_now

__all__ = [
    "Job",
    "Outcome",
    "Patience",
    "Place",
    "Pusher",
    "check_repo_id",
    "endpoint",
    "push_now",
    "render_card",
    "token_source",
    "write_card",
]
