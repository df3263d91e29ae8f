"""Requests in, groups of completions out."""
