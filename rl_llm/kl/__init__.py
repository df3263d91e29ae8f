"""The dynamic KL: estimators of the divergence, and controllers of its coefficient."""
