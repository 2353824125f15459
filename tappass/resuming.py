"""Resuming a call that people were asked about: `with resume(token): pay(...)`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tappass.scopes import UnitOfWork
from tappass.session.registry import registry
from tappass.session.session import Options, Session
from tappass.wire.sessions import Opening

if TYPE_CHECKING:
    from tappass.enforcement.port import Plane
    from tappass.wire.sessions import SessionRecord


class Resumption(UnitOfWork):
    """The session of a held call, entered again; one that is still open here is joined and left open."""

    def __init__(self, token: str, *, url: str | None, api_key: str | None, options: Options) -> None:
        super().__init__(Opening(), url=url, api_key=api_key, options=options)
        self._token = token
        self._joined = False

    def _begin(self, plane: Plane, opening: Opening) -> SessionRecord:
        return plane.sync.resume(self._token)

    async def _abegin(self, plane: Plane, opening: Opening) -> SessionRecord:
        return await plane.aio.resume(self._token)

    def _opened(self, record: Any, plane: Plane, options: Options) -> Session:
        self._joined = registry.session(record.session_id) is not None
        if self._joined:
            # Another object for the same session: the one around keeps its own options, latch and end.
            session = self._session = Session(record, plane, options, latch=None)
        else:
            session = super()._opened(record, plane, options)
        session.resume_token = self._token
        return session

    def close(self, error: BaseException | None = None) -> None:
        """Close the session, unless somebody else has it open."""
        if not self._joined:
            super().close(error)

    async def aclose(self, error: BaseException | None = None) -> None:
        """Close the session, unless somebody else has it open."""
        if not self._joined:
            await super().aclose(error)

    def _again(self) -> UnitOfWork:
        return Resumption(self._token, url=self._url, api_key=self._api_key, options=self._options)


def resume(
    token: str,
    *,
    url: str | None = None,
    api_key: str | None = None,
    raise_on_redaction: bool | None = None,
    respect_breakglass: bool | None = None,
    on_approval: str | None = None,
    approval_timeout_s: float | None = None,
) -> UnitOfWork:
    """Enter the session of a held call again; inside, exactly the action that people agreed to runs, once.

    In this process or in another one, after any restart: the approval is in the database. Use it as `with`, as
    `async with`, or as a decorator. Calls that need no approval run as in any session.

    Args:
        token: `ApprovalRequired.resume_token`.
        url: the plane that issued it, by default as in `tappass_session`.
        api_key: the key for that url, and for no other.
        raise_on_redaction: as in `tappass_session`.
        respect_breakglass: as in `tappass_session`.
        on_approval: `wait` waits here if people have not decided yet.
        approval_timeout_s: how long to wait, in seconds.

    Raises:
        TapPassConfigError: this plane did not issue the token.
        TapPassConnectionError: the plane cannot record it.
    """
    options = Options(
        raise_on_redaction=raise_on_redaction,
        respect_breakglass=respect_breakglass,
        on_approval=on_approval,
        approval_timeout_s=approval_timeout_s,
    )
    return Resumption(token, url=url, api_key=api_key, options=options)
