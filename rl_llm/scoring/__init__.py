"""Completions in, scores out; helpers for reward authors."""
