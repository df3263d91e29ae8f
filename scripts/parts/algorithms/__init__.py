"""Parts of `bench_algorithms.py`."""
