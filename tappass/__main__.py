"""The console script `tappass` and `python -m tappass`."""

from __future__ import annotations

import sys

from tappass.extras import missing

USAGE_ERROR = 2


def main() -> None:
    """Run the command line; without its libraries, say in one line what to install and exit with 2."""
    try:
        import rich  # noqa: F401
        import typer  # noqa: F401
    except ImportError:
        print(f"tappass: {missing('embedded', 'the command line')}", file=sys.stderr)  # noqa: T201
        sys.exit(USAGE_ERROR)
    from tappass.cli.app import app

    app()


if __name__ == "__main__":
    main()
