"""Parts of `bench_vs_trl.py`; `bench_rollout.py` measures with them too."""
