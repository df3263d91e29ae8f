"""Parts of `bench_curriculum.py`, `bench_curriculum_simulated.py`, `bench_beliefs.py` and
`bench_scale.py`."""
