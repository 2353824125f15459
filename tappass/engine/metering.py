"""What a call takes of a budget, and at most: whole tool calls, whole tokens, whole millionths of a dollar."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from functools import lru_cache
from typing import Any

import msgspec

from tappass.engine.policy.document import Budget
from tappass.engine.settings import Price
from tappass.wire.chat import Usage
from tappass.wire.decisions import Action
from tappass.wire.findings import Finding

TOOL_CALLS, LLM_TOKENS, USD = "tool_calls", "llm_tokens", "usd"
CALL, SESSION, AGENT, DAY = "call", "session", "agent", "day"
MICRO = 1_000_000

# Beyond what any model reads or writes: a number above it is no count of tokens.
_MOST_TOKENS = 10**9
_UNITS = {TOOL_CALLS: "tool calls", LLM_TOKENS: "tokens", USD: "USD"}


class Unbounded(Exception):
    """The most that a call may take cannot be told; the text says why, for people."""


class Meter(msgspec.Struct, frozen=True, gc=False):
    """One thing that is counted, and the most of it that may be spent (None: it is only counted).

    `subject` is the session or the agent whose it is, "" for a single call and for the whole project's day. A meter is
    `inherited` if it belongs to a session around the call's own.
    """

    scope: str
    subject: str
    measure: str
    limit: int | None = None
    inherited: bool = False

    @property
    def name(self) -> str:
        """What errors, rules and the log call it: `session.usd`."""
        return f"{self.scope}.{self.measure}"

    def entry(self, used: int) -> str:
        """Return how a leaf says what is used: `session.tool_calls:12/500`."""
        name = f"{self.subject}.{self.measure}" if self.inherited else self.name
        limit = "" if self.limit is None else f"/{amount(self.measure, self.limit)}"
        return f"{name}:{amount(self.measure, used)}{limit}"

    def words(self, day: str) -> str:
        """Return how an error names it: `the session's budget of 500 tool calls`."""
        what = f"budget of {quantity(self.measure, self.limit or 0)}"
        if self.inherited:
            return f"the {what} of the session around it, `{self.subject}`,"
        if self.scope == CALL:
            return f"the {what} for one call"
        return f"the {what} for {day} (UTC)" if self.scope == DAY else f"the {self.scope}'s {what}"


def limit_of(budget: Budget) -> int:
    """Return a policy's limit in whole units; what is less than a millionth of a dollar is left out."""
    return int(Decimal(budget.limit) * MICRO) if budget.measure == USD else int(budget.limit)


def amount(measure: str, used: int) -> str:
    """Return a number of units as people write it: dollars as a decimal number."""
    if measure != USD:
        return str(used)
    whole, rest = divmod(used, MICRO)
    return f"{whole}.{rest:06d}".rstrip("0").rstrip(".")


def quantity(measure: str, used: int) -> str:
    """Return a number of units with their name: `500 tool calls`, `1 token`, `0.25 USD`."""
    unit = _UNITS[measure]
    return f"{amount(measure, used)} {unit[:-1] if used == 1 and measure != USD else unit}"


def most_tokens(action: Action, findings: tuple[Finding, ...], default: int) -> tuple[int, int]:
    """Return the most tokens that a chat turn's prompt and answer may have.

    Of the prompt it is the bytes of all that is sent: a token of a byte-level tokeniser is one byte or more, and the
    JSON around a message is longer than what a chat template puts there. A mask may be longer than what it masks.

    Args:
        action: the turn.
        findings: what may be masked in it.
        default: the most tokens of an answer where the turn does not say.

    Raises:
        Unbounded: the turn says it with something that is no number of tokens.
    """
    sent = {name: action.arguments.get(name) for name in ("messages", "tools", "parameters")}
    masks = sum(len(finding.kind) + 2 for finding in findings)
    parameters = action.arguments.get("parameters") or {}
    said = [parameters[name] for name in ("max_tokens", "max_completion_tokens") if parameters.get(name) is not None]
    if not all(_is_count(value) for value in said):
        raise Unbounded("its `max_tokens` is not a number of tokens")
    return len(msgspec.json.encode(sent)) + masks, max(said, default=default)


def tokens_of(usage: Usage | None) -> tuple[int, int] | None:
    """Return a server's own count of prompt and answer, None if it gave none that can be one."""
    if usage is None or not all(_is_count(n) for n in (usage.prompt_tokens, usage.completion_tokens)):
        return None
    if not usage.prompt_tokens or not _is_count(usage.total_tokens):
        return None
    # Some count what a model thinks in the total alone.
    return usage.prompt_tokens, max(usage.completion_tokens, usage.total_tokens - usage.prompt_tokens)


def cost(price: Price, prompt: int, answer: int) -> int:
    """Return what tokens cost, in millionths of a dollar, rounded up: dollars a million is millionths a token."""
    return -int(-(_exact(price.input) * prompt + _exact(price.output) * answer) // 1)


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= _MOST_TOKENS


@lru_cache(maxsize=256)
def _exact(price: str) -> Fraction:
    return Fraction(price)
