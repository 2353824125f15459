"""The verifiable log: tree hashing, keys, checkpoints, export and offline verification."""
