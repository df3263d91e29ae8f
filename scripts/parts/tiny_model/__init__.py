"""Parts of `make_tiny_model.py`."""
