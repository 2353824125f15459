"""What a server lists, how old that is, and what speaks against one of its tools."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection
from typing import Any

import anyio
import mcp.types as types

from tappass.ext import ToolDefinition, canonical, sha256
from tappass_adapters.mcp import names
from tappass_adapters.mcp.hostile import flaw

# A list may go on for ever.
MOST_PAGES, MOST_TOOLS, LIST_TIMEOUT_S = 200, 10_000, 30.0
_METHOD_NOT_FOUND = -32601

UNLISTED, SHADOWED, RENAMED, TEXT = "unlisted", "shadowed", "renamed", "text"
# Names that requests go by which are no tools; no tool may go by them.
OURS = frozenset({"resources/read", "resources/subscribe", "prompts/get", "completion/complete"})


class Listed:
    """One tool as its server lists it: its definition, the digest of that, and what its words say against it."""

    def __init__(self, tool: Any, server: str) -> None:
        self.definition = definition_of(tool, server)
        self.digest = sha256(canonical(self.definition))
        self.flaw = flaw(tool.model_dump(by_alias=True, mode="json", exclude_none=True))


class Catalogue:
    """The tools of one connection, read again once they are older than `max_age_s`, past any cache."""

    def __init__(self, session: Any, server: str, *, scope: str, max_age_s: float, shared: Collection[str]) -> None:
        self._session = session
        self.server = server
        self._max_age_s = max_age_s
        self._shared = frozenset(shared)
        self._tools: dict[str, Listed] = {}
        self._twice: set[str] = set()
        self._renamed: set[str] = set()
        self._read_at: float | None = None
        self._lock = anyio.Lock()
        self._scope = scope

    async def fresh(self, *, now: bool = False) -> None:
        """Read the list if it is too old, or in any case; calls at the same time read it once."""
        asked_at = time.monotonic()
        async with self._lock:
            read_at = self._read_at
            if read_at is not None and (read_at > asked_at if now else asked_at - read_at < self._max_age_s):
                return
            began = time.monotonic()
            with anyio.fail_after(LIST_TIMEOUT_S):
                tools = await self._all()
            self._take(tools, began)

    async def look(self, name: str, *, now: bool = False) -> tuple[Listed | None, str]:
        """Return a tool and the doubt about it, in the words of `DecisionRequest.doubt`."""
        known_at = self._read_at
        await self.fresh(now=now)
        if name not in self._tools and self._read_at == known_at:
            # Servers add tools while they are connected to, and say so: whoever heard of it calls at once.
            await self.fresh(now=True)
        listed = self._tools.get(name)
        if listed is None or name in OURS:
            return listed, UNLISTED if listed is None else SHADOWED
        if name in self._twice or (name not in self._shared and names.shadowed(self._scope, self.server, name)):
            return listed, SHADOWED
        if listed.digest in self._renamed:
            return listed, RENAMED
        return listed, TEXT if listed.flaw else ""

    def _take(self, tools: list[Any], read_at: float) -> None:
        counted = Counter(tool.name for tool in tools)
        self._twice = {name for name, count in counted.items() if count > 1}
        old = self._tools
        # The first of two: which of them the server means is anybody's guess, and neither is called.
        kept: dict[str, Listed] = {}
        for tool in tools:
            if tool.name not in kept:
                kept[tool.name] = _again(old.get(tool.name), Listed(tool, self.server))
        if old.keys() - kept.keys():
            # Others are gone in the very list in which these came: which of them was renamed, nobody can say.
            self._renamed.update(kept[name].digest for name in kept.keys() - old.keys())
        self._tools, self._read_at = kept, read_at
        names.offer(self._scope, id(self), self.server, kept)

    async def _all(self) -> list[Any]:
        """Return every tool that the server lists.

        Raises:
            RuntimeError: the list has no end.
        """
        tools: list[Any] = []
        cursor: str | None = None
        for _ in range(MOST_PAGES):
            try:
                page = await self._session.list_tools(params=types.PaginatedRequestParams(cursor=cursor))
            except Exception as error:
                if code_of(error) == _METHOD_NOT_FOUND:
                    return []
                raise
            tools += page.tools
            cursor = page.next_cursor if hasattr(page, "next_cursor") else page.nextCursor
            if not cursor:
                return tools
            if len(tools) > MOST_TOOLS:
                break
        raise RuntimeError(f"the MCP server `{self.server}` lists no end of tools; nothing was called")


def _again(old: Listed | None, new: Listed) -> Listed:
    return old if old is not None and old.digest == new.digest else new


def definition_of(tool: Any, server: str) -> ToolDefinition:
    """Return the whole definition of a tool as its server lists it: what a pin is made of."""
    listed = tool.model_dump(by_alias=True, mode="json", exclude_none=True)
    schema = listed.pop("inputSchema", None) or {}
    return ToolDefinition(
        name=listed.pop("name"),
        description=listed.pop("description", ""),
        parameters=schema,
        server=server,
        listed=listed,
        **arguments_of(schema),
    )


def arguments_of(schema: Any) -> dict[str, Any]:
    """Return the names that a JSON schema gives arguments, and whether there may be others."""
    properties = schema.get("properties")
    known = tuple(map(str, properties)) if isinstance(properties, dict) else ()
    return {"arguments": known, "open_arguments": schema.get("additionalProperties") is not False}


def code_of(error: BaseException) -> int:
    """Return the JSON-RPC code of an error that a server has answered with, 0 for any other."""
    code = getattr(getattr(error, "error", None), "code", 0)
    return code if isinstance(code, int) else 0
