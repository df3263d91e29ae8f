"""The trained model: base, adapters, packing, updates."""

from rl_llm.policy.engine import PolicyEngine
from rl_llm.policy.launched import check_precision
from rl_llm.policy.model import add_lora, fingerprint, load_base, load_tokenizer, stop_token_ids
from rl_llm.policy.pack import check_advantages, score_batch, train_groups
from rl_llm.policy.ranks import Ranks
from rl_llm.policy.schedule import learning_rate
from rl_llm.policy.update import CriticFacts, UpdateFacts
from rl_llm.policy.watch import End

__all__ = [
    "CriticFacts",
    "End",
    "PolicyEngine",
    "Ranks",
    "UpdateFacts",
    "add_lora",
    "check_advantages",
    "check_precision",
    "fingerprint",
    "learning_rate",
    "load_base",
    "load_tokenizer",
    "score_batch",
    "stop_token_ids",
    "train_groups",
]
