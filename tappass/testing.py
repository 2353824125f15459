"""For users' own tests: a plane in memory, and fixtures where there is pytest.

The fixtures come with the package, as a pytest plug-in:

    def test_mail_stays_inside(tappass_plane, audit_events):
        tappass_plane.policy('''
            version: 1
            rules:
              - {id: inside, tool: send_email, when: '!args.to.endsWith("@acme.com")', effect: block}
        ''')
        with pytest.raises(PolicyBlockError):
            send_email("eve@evil.example", "hi")
        assert audit_events(type="call.decided")[-1].outcome == "block"
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from textwrap import dedent
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from tappass.plane.embedded import EmbeddedPlane
    from tappass.wire.events import AuditEvent
    from tappass.wire.ids import Clock

F = TypeVar("F", bound=Callable[..., Any])

_numbers = itertools.count(1)


def _fixture(function: F) -> F:
    """Return a pytest fixture where there is pytest: a plane in memory is of use without it."""
    try:
        import pytest
    except ImportError:
        return function
    return pytest.fixture(function)  # type: ignore[return-value]


class MemoryPlane:
    """An embedded plane in memory: the real engine, on a database that lives as long as this object."""

    def __init__(self, policy: str = "", settings: str = "", *, clock: Clock | None = None) -> None:
        from tappass.engine.policy.files import PolicySources
        from tappass.plane.embedded import EmbeddedPlane
        from tappass.wire.ids import SYSTEM_CLOCK

        self.url = f"memory:{os.getpid()}-{next(_numbers)}"
        self._policy, self._settings = dedent(policy), dedent(settings)
        sources = PolicySources.of(policy=self._policy, settings=self._settings)
        self.plane: EmbeddedPlane = EmbeddedPlane.in_memory(sources, url=self.url, clock=clock or SYSTEM_CLOCK)

    def policy(self, text: str) -> None:
        """Put a policy (YAML) in force, for sessions opened from now on.

        Raises:
            TapPassConfigError: it is wrong; line and column are named.
        """
        self._replace(dedent(text), self._settings)

    def settings(self, text: str) -> None:
        """Put settings (TOML) in force, for sessions opened from now on.

        Raises:
            TapPassConfigError: they are wrong; the key is named.
        """
        self._replace(self._policy, dedent(text))

    def _replace(self, policy: str, settings: str) -> None:
        from tappass.engine.policy.files import PolicySources
        from tappass.session.registry import registry

        self.plane.pipelines.replace(PolicySources.of(policy=policy, settings=settings))
        self._policy, self._settings = policy, settings
        registry.forget_implicit(self.url)

    def events(self, **equal: Any) -> list[AuditEvent]:
        """Return the log's events so far, in order; `events(type="call.decided", name="pay")` filters by field."""
        store = self.plane.engine.store
        store.flush()
        return [e for e in store.read.all_events() if all(getattr(e, name) == value for name, value in equal.items())]


@contextmanager
def memory_plane(policy: str = "", settings: str = "", *, clock: Clock | None = None) -> Iterator[MemoryPlane]:
    """Make a plane in memory the default one for a block: calls that name no plane are decided there."""
    from tappass.session.registry import registry
    from tappass.toolspec import release_names

    made = MemoryPlane(policy, settings, clock=clock)
    before = os.environ.get("TAPPASS_URL")
    registry.plane(made.url, lambda: made.plane)
    os.environ["TAPPASS_URL"] = made.url
    try:
        yield made
    finally:
        if before is None:
            os.environ.pop("TAPPASS_URL", None)
        else:
            os.environ["TAPPASS_URL"] = before
        registry.forget_plane(made.url)
        release_names()


@_fixture
def tappass_plane() -> Iterator[MemoryPlane]:
    """Yield a plane in memory that is the default one for the test."""
    with memory_plane() as plane:
        yield plane


@_fixture
def audit_events(tappass_plane: MemoryPlane) -> Callable[..., list[AuditEvent]]:
    """Return a function that answers the test's audit events, filtered by field."""
    return tappass_plane.events


__all__ = ["MemoryPlane", "audit_events", "memory_plane", "tappass_plane"]
