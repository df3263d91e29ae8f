"""The difficulty-aware dataloader."""
