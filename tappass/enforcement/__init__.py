"""Layer 1: THE path of a governed call, free of I/O, with its two drivers."""
