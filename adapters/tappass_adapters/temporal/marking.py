"""`@governed_workflow`: marks a workflow, and fails it where no plugin governs it. Legal in the sandbox."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, TypeVar, overload

from temporalio.exceptions import ApplicationError

from tappass.errors import TapPassConfigError

C = TypeVar("C", bound=type)

MARK = "__tappass_workflow__"
_DEFINITION = "__temporal_workflow_definition"
_RUN = "__temporal_workflow_run"

# Set by the plugin's interceptor around `run`; in a sandbox without the plugin this is a module of its own.
governing: ContextVar[bool] = ContextVar("tappass_temporal_governing", default=False)

_MISSING = (
    "this workflow is governed, but nothing governs it on this worker; its client lacks the line "
    "`Client.connect(..., plugins=[TapPassPlugin(url=..., api_key=...)])`; nothing ran"
)


@dataclasses.dataclass(frozen=True)
class Mark:
    """What `@governed_workflow` was told; `key` is a digest within this process, never the key."""

    url: str | None = None
    key: int | None = None
    raise_on_redaction: bool | None = None
    respect_breakglass: bool | None = None


def mark_of(workflow: type) -> Mark | None:
    """Return a workflow class's mark, None if it is not governed."""
    found = getattr(workflow, MARK, None)
    return found if isinstance(found, Mark) else None


@overload
def governed_workflow(workflow: C, /) -> C: ...
@overload
def governed_workflow(
    *,
    url: str | None = None,
    api_key: str | None = None,
    raise_on_redaction: bool | None = None,
    respect_breakglass: bool | None = None,
) -> Callable[[C], C]: ...
def governed_workflow(
    workflow: Any = None,
    /,
    *,
    url: str | None = None,
    api_key: str | None = None,
    raise_on_redaction: bool | None = None,
    respect_breakglass: bool | None = None,
) -> Any:
    """Govern a Temporal workflow: one session per execution, and each of its activities decided before it runs.

    Above or below `@workflow.defn`; the workflow's name and the signature of `run` stay. The client needs
    `TapPassPlugin`, which owns the plane: without it the first workflow task fails the workflow.

    Args:
        workflow: the class; left out when options are given.
        url: the plane, said again: one that is not the plugin's is refused when the worker is made.
        api_key: the key, said again in the same way.
        raise_on_redaction: as in `tappass_session`.
        respect_breakglass: as in `tappass_session`.

    Raises:
        TapPassConfigError: it is no class with a `@workflow.run` method, or is governed already with other options.
    """
    # The same process asks again later: a digest serves, the key itself would lie open on a class.
    key = None if api_key is None else hash(api_key)
    mark = Mark(url, key, raise_on_redaction, respect_breakglass)

    def decorate(target: Any) -> Any:
        if not inspect.isclass(target):
            raise TapPassConfigError(f"@governed_workflow decorates a workflow class, not {target!r:.80}")
        known = target.__dict__.get(MARK)
        if known is not None:
            if known != mark:
                raise TapPassConfigError(f"`{target.__name__}` is governed already, with other options")
            return target
        _wrap_run(target)
        setattr(target, MARK, mark)
        return target

    return decorate if workflow is None else decorate(workflow)


def _wrap_run(target: type) -> None:
    """Have `run` fail the workflow where no plugin governs it."""
    runs = [name for name, member in inspect.getmembers(target) if hasattr(member, _RUN)]
    if not runs:
        raise TapPassConfigError(f"`{target.__name__}` has no @workflow.run method, so there is no workflow to govern")
    for name in runs:
        if name not in target.__dict__:
            continue  # @workflow.defn itself refuses a run method that was only inherited
        wrapper = _checked(target.__dict__[name])
        setattr(target, name, wrapper)
        definition = target.__dict__.get(_DEFINITION)
        if definition is not None:
            definition = dataclasses.replace(definition, run_fn=wrapper)
            setattr(target, _DEFINITION, definition)
            setattr(wrapper, _DEFINITION, definition)


def _checked(run: Any) -> Any:
    @functools.wraps(run)
    async def checked(*args: Any, **kwargs: Any) -> Any:
        if not governing.get():
            # A failure of the workflow: any other error would be retried for ever and look like a hang.
            raise ApplicationError(_MISSING, type=TapPassConfigError.__name__, non_retryable=True)
        return await run(*args, **kwargs)

    return checked
