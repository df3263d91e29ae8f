"""What other people see of a trained adapter: its model card."""

from rl_llm.hub.card import write_card

__all__ = ["write_card"]
