"""Parts of `bench_kl.py`."""
