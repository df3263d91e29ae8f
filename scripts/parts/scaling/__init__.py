"""Parts of `bench_scaling.py`."""
