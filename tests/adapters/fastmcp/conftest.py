"""What the tests of FastMCP servers share with those of the official ones: the planes that decide."""

from tests.adapters.mcp.conftest import any_plane, plane

__all__ = ["any_plane", "plane"]
