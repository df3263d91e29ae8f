"""Advantages, losses and reductions as pure tensor functions, composed into algorithms."""
