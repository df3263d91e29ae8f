"""What the programs of this folder are made of: a folder for each benchmark, and what they share.

Nothing in here is typed by a person; `python scripts/NAME.py` is what finds it.
"""
