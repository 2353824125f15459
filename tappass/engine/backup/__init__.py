"""A whole control plane in one file: every row, and each log up to a checkpoint signed for the copy."""
