"""How a refusal gets through CrewAI, which swallows every exception of a hook but its own."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from crewai.hooks.dispatch import HookAborted

from tappass.errors import TapPassConfigError, TapPassError
from tappass.ext import Session, current_session, tell


class Refused(HookAborted):
    """A refusal of ours in CrewAI's own words.

    Attributes:
        refusal: the error that the guard's caller gets.
    """

    def __init__(self, refusal: TapPassError) -> None:
        super().__init__(reason=str(refusal), source="tappass")
        self.refusal = refusal


@contextlib.contextmanager
def failing(what: str) -> Iterator[None]:
    """Turn whatever fails here into what CrewAI lets through."""
    try:
        yield
    except HookAborted:
        raise
    except TapPassError as error:
        stand(error)
        raise Refused(error) from error
    except Exception as error:
        failure = TapPassConfigError(f"`{what}` was not run: the guard failed with {type(error).__name__}")
        failure.__cause__ = error
        stand(failure)
        raise Refused(failure) from error


def stand(error: TapPassError) -> None:
    """Let an error stand, for the guard to bring back."""
    if (session := current_session()) is not None and standing(session) is not error:
        session.let_stand(error)


def standing(session: Session | None) -> TapPassError | None:
    """Return what stands on a session and ends its unit."""
    return session.standing if session is not None else None


def told(error: TapPassError) -> str | None:
    """Return what the model is told of a refusal, None where it ends the unit instead."""
    try:
        return tell(current_session(), error)
    except TapPassError:
        return None
