"""Layer 0: the names that cross a boundary, as frozen msgspec structs, and their bytes."""
