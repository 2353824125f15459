"""Where everything is kept: rows, and the log's leaves, written together."""
