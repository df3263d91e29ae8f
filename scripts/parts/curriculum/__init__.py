"""Parts of `bench_curriculum.py`, `bench_curriculum_simulated.py` and `bench_scale.py`."""
