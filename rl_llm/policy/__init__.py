"""The trained model: base, adapters, packing, updates."""
