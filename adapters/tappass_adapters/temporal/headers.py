"""What travels in Temporal's own headers: which session a call belongs to, and beneath which one it was opened."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from temporalio import workflow
from temporalio.api.common.v1 import Payload
from temporalio.converter import PayloadConverter

from tappass.ext import Options, derived_id
from tappass_adapters.temporal.marking import Mark

HEADER = "tappass-session"


class Told(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The contents of the header; an id places a call and authenticates nobody, its plane checks whose it is.

    `session` is the execution's, in what its workflow starts; `parent` the session that it was started in. `sender` is
    the session that a signal or an update came from.
    """

    session: str = ""
    parent: str = ""
    sender: str = ""
    raise_on_redaction: bool | None = None
    respect_breakglass: bool | None = None

    @property
    def options(self) -> Options:
        """What the workflow's decorator asked for."""
        return Options(raise_on_redaction=self.raise_on_redaction, respect_breakglass=self.respect_breakglass)


def told_in(headers: Mapping[str, Payload]) -> Told:
    """Return what a header says, nothing if there is none that can be read."""
    payload = headers.get(HEADER)
    if payload is None:
        return Told()
    try:
        return msgspec.convert(PayloadConverter.default.from_payload(payload), Told)
    except Exception:  # it came from elsewhere; a call that it cannot place is placed as any other
        return Told()


def telling(headers: Mapping[str, Payload], told: Told) -> dict[str, Payload]:
    """Return headers that say this too."""
    contents: dict[str, Any] = msgspec.to_builtins(told)
    return {**headers, HEADER: PayloadConverter.default.to_payload(contents)}


def told_of(info: workflow.Info, mark: Mark) -> Told:
    """Return what an execution's own calls say: its session is the same in every replay, retry, reset and run.

    Under a cron schedule each run is an execution of its own.
    """
    parts = [info.namespace, info.workflow_id, info.first_execution_run_id]
    if info.cron_schedule:
        # Not the run id, which a reset changes; early versions of the SDK know no other.
        parts.append(getattr(info, "original_execution_run_id", "") or info.run_id)
    return Told(
        session=derived_id("ses", "temporal", *parts),
        parent=told_in(info.headers).parent,
        raise_on_redaction=mark.raise_on_redaction,
        respect_breakglass=mark.respect_breakglass,
    )
