"""The plugin by which a runner tells which agent, tool and model comes next; it decides nothing itself.

Whoever registered before or after it may still change a call's arguments, so the decision is taken beneath all
callbacks: around the very method of the tool or the model that ADK calls last.
"""

from __future__ import annotations

import contextvars
import functools
import threading
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from google.adk.plugins.base_plugin import BasePlugin
from google.adk.plugins.plugin_manager import PluginManager

from tappass.errors import TapPassConfigError
from tappass.ext import current_guard

if TYPE_CHECKING:
    from tappass_adapters.adk.guard import AdkGuard

NAME = "tappass_guard"

_lock = threading.Lock()
# By invocation: for code that an agent runs on bare threads, where no guard is the current one.
_guards: weakref.WeakValueDictionary[str, AdkGuard] = weakref.WeakValueDictionary()


def speaking(context: Any = None) -> AdkGuard | None:
    """Return the guard in which this happens, None outside any.

    Args:
        context: a context of ADK's that knows its invocation.
    """
    from tappass_adapters.adk.guard import AdkGuard

    guard = current_guard(AdkGuard)
    if isinstance(guard, AdkGuard):
        return guard
    return _guards.get(getattr(context, "invocation_id", ""))


class GuardPlugin(BasePlugin):
    """Tells the guard in which a run happens, and nobody else; it holds nothing of its own."""

    def __init__(self) -> None:
        super().__init__(name=NAME)

    async def before_run_callback(self, *, invocation_context: Any) -> None:
        """Note whose run this is."""
        if (guard := speaking()) is not None:
            _guards[invocation_context.invocation_id] = guard
            guard.begins(invocation_context)
            guard.summaries.expect(invocation_context)

    async def before_agent_callback(self, *, agent: Any, callback_context: Any) -> None:
        """Open the session of a delegated agent."""
        if (guard := speaking(callback_context)) is not None:
            await guard.agents.begins(agent, callback_context)
            guard.live.expect(agent, callback_context._invocation_context)
            guard.summaries.expect(callback_context._invocation_context, agent)
            guard.models.meet(agent)

    async def after_agent_callback(self, *, agent: Any, callback_context: Any) -> None:
        """Close it."""
        if (guard := speaking(callback_context)) is not None:
            await guard.agents.ends(agent, callback_context, None)

    async def on_agent_error_callback(self, *, agent: Any, callback_context: Any, error: Exception) -> None:
        """Close it as failed."""
        if (guard := speaking(callback_context)) is not None:
            await guard.agents.ends(agent, callback_context, error)

    async def before_model_callback(self, *, callback_context: Any, llm_request: Any) -> None:
        """Stand before the model."""
        if (guard := speaking(callback_context)) is not None:
            guard.models.expect(callback_context, llm_request)

    async def before_tool_callback(self, *, tool: Any, tool_args: dict[str, Any], tool_context: Any) -> None:
        """Stand before the tool."""
        if (guard := speaking(tool_context)) is not None:
            guard.tools.expect(tool)


PLUGIN = GuardPlugin()


class _Attached:
    """A plugin manager with the plugin in it, and how many guards need it so."""

    def __init__(self, manager: PluginManager) -> None:
        self.manager = manager
        self.before = manager.plugins
        # First: another plugin's answer ends the round. A new list: somebody may be walking the old one.
        self.plugins = [PLUGIN, *manager.plugins]
        self.holders = 0


_attached: dict[int, _Attached] = {}


def refuse_namesake(manager: PluginManager) -> None:
    """Refuse a runner with a plugin that is called like ours.

    Raises:
        TapPassConfigError: it has one.
    """
    if any(plugin.name == NAME and plugin is not PLUGIN for plugin in manager.plugins):
        raise TapPassConfigError(f"a plugin of this runner is called {NAME!r} already; rename it")


def attach(manager: PluginManager) -> Callable[[], None] | None:
    """Have a runner's plugin manager call us until what is returned is called, by whoever asks last.

    Returns None where we stand in it already, for another reason: a nested runner that took over its caller's plugins.

    Raises:
        TapPassConfigError: another plugin has our name.
    """
    with _lock:
        attached = _attached.get(id(manager))
        if attached is None:
            if PLUGIN in manager.plugins:
                return None
            refuse_namesake(manager)
            attached = _attached[id(manager)] = _Attached(manager)
            manager.plugins = attached.plugins
        attached.holders += 1
    return lambda: _detach(manager)


def _detach(manager: PluginManager) -> None:
    with _lock:
        attached = _attached[id(manager)]
        attached.holders -= 1
        if attached.holders:
            return
        del _attached[id(manager)]
        if manager.plugins is attached.plugins and manager.plugins[1:] == attached.before:
            manager.plugins = attached.before
        else:
            manager.plugins = [plugin for plugin in manager.plugins if plugin is not PLUGIN]


def carrying(original: Any) -> Any:
    """Return what makes a thread for a runner's sync `run`: inside the guard too, which older versions would lose."""

    def create_thread(target: Any, *args: Any, **kwargs: Any) -> Any:
        if speaking() is not None:
            target = functools.partial(contextvars.copy_context().run, target)
        return original(target, *args, **kwargs)

    return create_thread


def attaching(original: Any) -> Any:
    """Return a plugin manager's `__init__` after which one made inside a guarded run has us in it."""

    def made(self: PluginManager, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        if (guard := speaking()) is not None:
            guard.attach(self)

    return made
