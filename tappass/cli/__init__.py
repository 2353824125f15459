"""The command line: Typer for its grammar, Rich for what it shows."""
