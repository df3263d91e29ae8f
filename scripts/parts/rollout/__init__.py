"""Parts of `bench_rollout.py`."""
