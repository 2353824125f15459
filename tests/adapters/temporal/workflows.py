"""Workflows and activities that are governed in these tests; `added:` marks where a later version does more."""

from __future__ import annotations

import asyncio
import base64
import collections.abc
import contextlib
import json
import os
import threading
import time
import typing
from datetime import timedelta
from typing import Any

from temporalio import activity, workflow
from temporalio.common import RawValue, RetryPolicy
from temporalio.exceptions import ActivityError, ApplicationError

from tappass import current_session, governed_workflow, tool

S = timedelta(seconds=20)
TWICE = RetryPolicy(maximum_attempts=2, initial_interval=timedelta(milliseconds=20))

# What ran in this process: name, arguments, session.
RAN: list[tuple[str, tuple[object, ...], str]] = []


def note(name: str, *args: object) -> str:
    session = current_session()
    session_id = session.session_id if session is not None else ""
    RAN.append((name, args, session_id))
    if path := os.environ.get("RAN_FILE"):
        with open(path, "a") as file:
            file.write(f"{name} {args}\n")
    return session_id


@activity.defn
async def send(to: str, text: str = "hello") -> str:
    return note("send", to, text)


@activity.defn
def send_by_thread(to: str) -> str:
    return f"{note('send_by_thread', to)} {threading.current_thread() is threading.main_thread()}"


@activity.defn
async def pay(to: str, amount: float) -> str:
    note("pay", to, amount)
    return f"{amount:g} paid to {to}"


@activity.defn
async def pay_flaky(to: str, amount: float) -> str:
    note("pay_flaky", to, amount)
    if activity.info().attempt == 1 and len([r for r in RAN if r[0] == "pay_flaky"]) == 1:
        raise RuntimeError("the bank hung up")
    return f"{amount:g} paid to {to}"


@activity.defn
async def pay_and_hang(to: str, amount: float) -> str:
    """Starts, and hangs on in the first process it is run in."""
    note("pay_and_hang", to, amount)
    if os.environ.get("HANG"):
        await asyncio.sleep(3600)
    return f"{amount:g} paid to {to}"


@tool
def wire(to: str, amount: float) -> str:
    return note("wire", to, amount) or "no session"


@activity.defn
async def wire_through(to: str, amount: float) -> str:
    """An activity with a governed tool inside."""
    note("wire_through", to, amount)
    return wire(to, amount)


@activity.defn(name="transfer")
@tool(name="transfer")
async def transfer(to: str, amount: float) -> str:
    """An activity that is a governed tool itself."""
    note("transfer", to, amount)
    return f"{amount:g} to {to}"


@activity.defn
async def slow(seconds: float) -> str:
    note("slow", seconds)
    for _ in range(int(seconds * 20)):
        activity.heartbeat()
        await asyncio.sleep(0.05)
    return "done"


@activity.defn
def slow_by_thread(seconds: float) -> str:
    note("slow_by_thread", seconds)
    for _ in range(int(seconds * 20)):
        activity.heartbeat()
        time.sleep(0.05)
    return "done"


@activity.defn
async def leave_open() -> str:
    activity.raise_complete_async()


@activity.defn
async def read_customer(number: int) -> str:
    note("read_customer", number)
    return "write to ada@example.com"


async def anything(args: Any) -> str:
    return note(activity.info().activity_type, len(args))


for sequence in (collections.abc.Sequence, vars(typing)["Sequence"]):
    # By which of the two a dynamic activity is known has changed with the SDK.
    anything.__annotations__["args"] = sequence[RawValue]
    with contextlib.suppress(TypeError):
        activity.defn(dynamic=True)(anything)
        break


@activity.defn
async def stamped(audience: str) -> str:
    """Mints a token; says which session it names, for the token itself is a secret that no result may hold."""
    session = current_session()
    assert session is not None
    payload = (await session.stamp_async(audience)).split(".")[1]
    return str(json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))["sid"])


@activity.defn
async def extra() -> str:
    return note("extra")


class Bank:
    """Activities that are methods."""

    @activity.defn
    async def deposit(self, amount: float) -> str:
        return note("deposit", amount)

    @activity.defn
    @tool(name="withdraw")
    async def withdraw(self, amount: float) -> str:
        note("withdraw", amount)
        return f"{amount:g} withdrawn"


_bank = Bank()
ACTIVITIES = [
    send, send_by_thread, pay, pay_flaky, pay_and_hang, wire_through, transfer, slow, slow_by_thread, leave_open,
    read_customer, anything, stamped, extra, _bank.deposit, _bank.withdraw,
]  # fmt: skip


@governed_workflow
@workflow.defn
class Sending:
    """One activity of the name given, with two arguments at most."""

    @workflow.run
    async def run(self, name: str, args: list[Any]) -> str:
        # added: here
        return str(await workflow.execute_activity(name, args=args, start_to_close_timeout=S, retry_policy=TWICE))


@workflow.defn
@governed_workflow
class Paying:
    """Governed below its definition."""

    @workflow.run
    async def run(self, to: str, amount: float) -> str:
        # added: here
        return await workflow.execute_activity(pay, args=[to, amount], start_to_close_timeout=S)


@governed_workflow
@workflow.defn
class Hanging:
    """A payment whose worker is taken for dead as soon as it is silent."""

    @workflow.run
    async def run(self, to: str, amount: float) -> str:
        # added: here
        return await workflow.execute_activity(
            pay_and_hang, args=[to, amount], start_to_close_timeout=timedelta(seconds=3)
        )


@governed_workflow
@workflow.defn
class PayingLocally:
    @workflow.run
    async def run(self, to: str, amount: float) -> str:
        # added: here
        return await workflow.execute_local_activity(pay, args=[to, amount], start_to_close_timeout=S)


@governed_workflow
@workflow.defn
class PayingBoth:
    """Two equal payments at once."""

    @workflow.run
    async def run(self, to: str, amount: float) -> list[str]:
        # added: here
        both = [workflow.start_activity(pay, args=[to, amount], start_to_close_timeout=S) for _ in range(2)]
        return list(await asyncio.gather(*both))


@governed_workflow
@workflow.defn
class Compensating:
    """Sees a refusal as workflows see failures, and answers it."""

    @workflow.run
    async def run(self, to: str) -> str:
        # added: here
        try:
            return await workflow.execute_activity(send, to, start_to_close_timeout=S)
        except ActivityError as error:
            cause = error.cause
            retryable = not isinstance(cause, ApplicationError) or not cause.non_retryable
            return f"{type(error).__name__} {error.activity_type} {getattr(cause, 'type', '')} {retryable}"


@governed_workflow
@workflow.defn
class Renaming:
    """Fails with an error of its own, which is not ours to replace."""

    @workflow.run
    async def run(self, to: str) -> str:
        try:
            return await workflow.execute_activity(send, to, start_to_close_timeout=S)
        except ActivityError as error:
            raise ApplicationError("not sent", type="NotSent") from error


@governed_workflow
@workflow.defn
class Parent:
    @workflow.run
    async def run(self, to: str, amount: float) -> str:
        # added: here
        return await workflow.execute_child_workflow(
            Paying.run, args=[to, amount], id=f"{workflow.info().workflow_id}-c"
        )


@governed_workflow
@workflow.defn
class Listening:
    """Sends when it is signalled or updated; ends when it is told to."""

    def __init__(self) -> None:
        self.sent: list[str] = []
        self.over = False

    @workflow.run
    async def run(self) -> list[str]:
        # added: here
        await workflow.wait_condition(lambda: self.over and workflow.all_handlers_finished())
        return self.sent

    @workflow.signal
    async def please_send(self, to: str) -> None:
        self.sent.append(await workflow.execute_activity(send, to, start_to_close_timeout=S))

    @workflow.update
    async def please_pay(self, to: str, amount: float) -> str:
        return await workflow.execute_activity(pay, args=[to, amount], start_to_close_timeout=S)

    @workflow.signal
    def end(self) -> None:
        self.over = True


@governed_workflow
@workflow.defn
class Talking:
    """Signals another workflow."""

    @workflow.run
    async def run(self, other: str) -> None:
        handle = workflow.get_external_workflow_handle(other)
        await handle.signal("please_send", "bob")
        await handle.signal("end")


@governed_workflow
@workflow.defn
class Continuing:
    @workflow.run
    async def run(self, left: int) -> str:
        # added: here
        session_id = await workflow.execute_activity(send, str(left), start_to_close_timeout=S)
        if left:
            workflow.continue_as_new(left - 1)
        return session_id


@governed_workflow
@workflow.defn
class Stepping:
    """Two activities with a task between them to reset to."""

    @workflow.run
    async def run(self) -> list[str]:
        # added: here
        first = await workflow.execute_activity(send, "one", start_to_close_timeout=S)
        await workflow.sleep(0.01)
        second = await workflow.execute_activity(send, "two", start_to_close_timeout=S)
        return [first, second]


@governed_workflow
@workflow.defn
class FailingOnce:
    """Fails at its first attempt, and is retried as a whole."""

    @workflow.run
    async def run(self) -> str:
        session_id = await workflow.execute_activity(send, "bob", start_to_close_timeout=S)
        if workflow.info().attempt == 1:
            raise ApplicationError("once more")
        return session_id


@governed_workflow
@workflow.defn
class Idle:
    """Runs nothing, for as long as it is let."""

    @workflow.run
    async def run(self, seconds: float) -> str:
        await workflow.sleep(seconds)
        return "rested"


@governed_workflow
@workflow.defn
class Cancelling:
    """Waits for an activity that takes its time."""

    @workflow.run
    async def run(self, name: str) -> str:
        # added: here
        return str(
            await workflow.execute_activity(
                name,
                60.0,
                start_to_close_timeout=timedelta(seconds=90),
                heartbeat_timeout=timedelta(seconds=5),
                cancellation_type=workflow.ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
            )
        )


@governed_workflow(raise_on_redaction=True)
@workflow.defn(name="strict")
class Strict:
    @workflow.run
    async def run(self, number: int) -> str:
        return await workflow.execute_activity(read_customer, number, start_to_close_timeout=S)


@workflow.defn
class Plain:
    """Not governed: its activities are calls outside any session."""

    @workflow.run
    async def run(self, to: str) -> str:
        return await workflow.execute_activity(send, to, start_to_close_timeout=S)


@workflow.defn(name="Late")
class LateBefore:
    """As it was before anybody governed it."""

    def __init__(self) -> None:
        self.told = False

    @workflow.run
    async def run(self, to: str, amount: float) -> str:
        await workflow.wait_condition(lambda: self.told)
        return await workflow.execute_activity(pay, args=[to, amount], start_to_close_timeout=S)

    @workflow.signal
    def go(self) -> None:
        self.told = True


@governed_workflow
@workflow.defn(name="Late")
class LateAfter:
    """The same, governed from now on."""

    def __init__(self) -> None:
        self.told = False

    @workflow.run
    async def run(self, to: str, amount: float) -> str:
        await workflow.wait_condition(lambda: self.told)
        return await workflow.execute_activity(pay, args=[to, amount], start_to_close_timeout=S)

    @workflow.signal
    def go(self) -> None:
        self.told = True


WORKFLOWS = [
    Sending, Paying, Hanging, PayingLocally, PayingBoth, Compensating, Renaming, Parent, Listening, Talking, Continuing,
    Stepping, FailingOnce, Idle, Cancelling, Strict, Plain,
]  # fmt: skip
