"""Which version this is: what the package, the server and its clients say."""

from __future__ import annotations

VERSION = "0.6.0"
