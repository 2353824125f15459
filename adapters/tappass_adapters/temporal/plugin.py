"""`TapPassPlugin`: one object that a client is connected with, for it and for its workers."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

from temporalio import client, worker
from temporalio.converter import DataConverter
from temporalio.service import ConnectConfig, ServiceClient
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner

from tappass.errors import TapPassConfigError
from tappass.ext import Executions, Options
from tappass_adapters.temporal.at_client import AtClient
from tappass_adapters.temporal.in_activity import Desk, InActivity
from tappass_adapters.temporal.in_workflow import InWorkflow
from tappass_adapters.temporal.marking import mark_of

# Not imported anew for each workflow: the interceptor and the decorator must see one context variable.
_PASSED = ("tappass", "tappass_adapters")


class TapPassPlugin(client.Plugin, worker.Plugin):
    """Governs the activities of every worker of the client that it is given to: `Client.connect(..., plugins=[it])`.

    The activities of a `@governed_workflow` belong to its execution's session; those of other workflows to the
    process's implicit session.

    Args:
        url: the plane, by default as in `tappass_session`.
        api_key: the key for that url, and for no other.
        agent: who acts; a registered agent's name, `default` otherwise.
        raise_on_redaction: as in `tappass_session`.
        respect_breakglass: as in `tappass_session`.
        approval_poll_s: how often, at most, a call that waits for people is looked at again, in seconds.

    Raises:
        TapPassConfigError: `approval_poll_s` is no number above 0.
    """

    def __init__(
        self,
        *,
        url: str | None = None,
        api_key: str | None = None,
        agent: str = "",
        raise_on_redaction: bool | None = None,
        respect_breakglass: bool | None = None,
        approval_poll_s: float = 60.0,
    ) -> None:
        if not approval_poll_s > 0:
            raise TapPassConfigError(f"approval_poll_s={approval_poll_s!r} is no number of seconds above 0")
        self._url, self._key = url, None if api_key is None else hash(api_key)
        options = Options(raise_on_redaction=raise_on_redaction, respect_breakglass=respect_breakglass)
        self._desk = Desk(Executions(url, api_key, options), agent)
        self._governor = Governor(self._desk, approval_poll_s)

    def name(self) -> str:
        """Return what servers and other plugins call it."""
        return "tappass"

    # At the client.

    def configure_client(self, config: client.ClientConfig) -> client.ClientConfig:
        """Add the client's interceptor; it reads failures as this client does."""
        self._governor.converter = config.get("data_converter", DataConverter.default)
        config["interceptors"] = [*config.get("interceptors", ()), self._governor]
        return config

    async def connect_service_client(
        self,
        config: ConnectConfig,
        next: Callable[[ConnectConfig], Awaitable[ServiceClient]],  # noqa: A002
    ) -> ServiceClient:
        """Connect as it is."""
        return await next(config)

    # At the worker.

    def configure_worker(self, config: worker.WorkerConfig) -> worker.WorkerConfig:
        """Add the interceptors and the plugin's own activities.

        Raises:
            TapPassConfigError: a workflow's decorator names another plane, the client has another plugin, or the
                worker takes no activities that are not local.
        """
        self._check(config.get("workflows") or ())
        given = [*_interceptors(config["client"]), *(config.get("interceptors") or ())]
        if any(isinstance(each, Governor) and each is not self._governor for each in given):
            raise TapPassConfigError("a TapPassPlugin governs this worker already; give one, to the client")
        if config.get("no_remote_activities") and any(map(mark_of, config.get("workflows") or ())):
            raise TapPassConfigError(
                "a worker of governed workflows needs activities that are not local, to wait for people in; "
                "leave no_remote_activities out"
            )
        if self._governor not in given:
            config["interceptors"] = [*(config.get("interceptors") or ()), self._governor]
        config["activities"] = [*(config.get("activities") or ()), *self._desk.activities()]
        config["workflow_runner"] = _passing(config.get("workflow_runner"))
        return config

    async def run_worker(self, worker: worker.Worker, next: Callable[[worker.Worker], Awaitable[None]]) -> None:  # noqa: A002
        """Run as it is."""
        await next(worker)

    def configure_replayer(self, config: worker.ReplayerConfig) -> worker.ReplayerConfig:
        """Add what replaying a governed history needs."""
        self._check(config.get("workflows") or ())
        config["interceptors"] = [*(config.get("interceptors") or ()), self._governor]
        config["workflow_runner"] = _passing(config.get("workflow_runner"))
        return config

    def run_replayer(
        self,
        replayer: worker.Replayer,
        histories: AsyncIterator[client.WorkflowHistory],
        next: Callable[  # noqa: A002
            [worker.Replayer, AsyncIterator[client.WorkflowHistory]],
            AbstractAsyncContextManager[AsyncIterator[worker.WorkflowReplayResult]],
        ],
    ) -> AbstractAsyncContextManager[AsyncIterator[worker.WorkflowReplayResult]]:
        """Replay as it is."""
        return next(replayer, histories)

    def _check(self, workflows: Any) -> None:
        for each in workflows:
            mark = mark_of(each)
            if mark is None:
                continue
            for what, said, own in (("url", mark.url, self._url), ("api_key", mark.key, self._key)):
                if said is not None and said != own:
                    raise TapPassConfigError(
                        f"@governed_workflow on `{each.__name__}` names another {what} than the TapPassPlugin of its "
                        f"client, which owns the plane; leave it out, or give it to TapPassPlugin({what}=...) too"
                    )


class Governor(client.Interceptor, worker.Interceptor):
    """The interceptors of client and worker.

    Args:
        desk: what they share.
        poll_s: how often a held call is looked at again.
    """

    def __init__(self, desk: Desk, poll_s: float) -> None:
        self._desk = desk
        self._in_workflow = type("InWorkflow", (InWorkflow,), {"poll_s": poll_s})
        self.converter = DataConverter.default

    def intercept_client(self, next: client.OutboundInterceptor) -> client.OutboundInterceptor:  # noqa: A002
        """Stand before a client's calls."""
        return AtClient(next, self._desk.executions, self.converter)

    def intercept_activity(self, next: worker.ActivityInboundInterceptor) -> worker.ActivityInboundInterceptor:  # noqa: A002
        """Stand before an activity."""
        return InActivity(next, self._desk)

    def workflow_interceptor_class(
        self,
        input: worker.WorkflowInterceptorClassInput,  # noqa: A002
    ) -> type[worker.WorkflowInboundInterceptor]:
        """Stand around a workflow."""
        return self._in_workflow


def _interceptors(connected: Any) -> list[Any]:
    """Return a client's interceptors, those that plugins added included."""
    try:
        config = connected.config(active_config=True)
    except TypeError:  # before 1.21 a client knew no other
        config = connected.config()
    return list(config["interceptors"])


def _passing(runner: worker.WorkflowRunner | None) -> worker.WorkflowRunner:
    """Return a runner that lets tappass through its sandbox."""
    runner = runner or SandboxedWorkflowRunner()
    if not isinstance(runner, SandboxedWorkflowRunner):
        return runner
    return dataclasses.replace(runner, restrictions=runner.restrictions.with_passthrough_modules(*_PASSED))
