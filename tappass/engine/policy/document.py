"""What a policy says, once read: typed, frozen, and canonical enough to name by its content."""

from __future__ import annotations

import uuid

import msgspec

from tappass.wire import sessions
from tappass.wire.codec import canonical

ALLOW, BLOCK, REDACT = "allow", "block", "redact"
REQUIRE_TIER, REQUIRE_APPROVAL = "require_tier", "require_approval"
EFFECTS = (ALLOW, BLOCK, REDACT, REQUIRE_TIER, REQUIRE_APPROVAL)
TIERS = sessions.TIERS

FLAG = "flag"
CATEGORIES = ("secrets", "pii", "injection")
PROMPT, ARGUMENTS, RESULT = "prompt", "arguments", "result"
PLACES = (PROMPT, ARGUMENTS, RESULT)
ACTIONS = (ALLOW, FLAG, REDACT, BLOCK)

SCOPES = ("call", "session", "agent", "day")
MEASURES = ("tool_calls", "llm_tokens", "usd")

# Never change: pipelines of every version before would be called otherwise.
_NAMESPACE = uuid.UUID("5b0f6f2e-3f0b-5d0c-9d43-6a1f7f3a6c11")


class Rule(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One rule. Globs that are "" do not narrow; a rule with neither `tool` nor `llm` is for both kinds of call.

    `source` is where it is written (`policy.yaml:8`) and no part of what the rule says.
    """

    id: str
    effect: str
    tool: str = ""
    llm: str = ""
    agent: str = ""
    session: str = ""
    mcp_server: str = ""
    when: str = ""
    classification: str = ""
    message: str = ""
    approvers: int = 0
    expires_in_s: int = 0
    tier: str = ""
    fields: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    source: str = ""


class DetectSetting(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is done about one category of findings in one place; `built_in` if the policy does not say."""

    category: str
    place: str
    action: str
    built_in: bool = False
    source: str = ""

    @property
    def id(self) -> str:
        """What decisions and the log call it: `detect.secrets.arguments`."""
        return f"detect.{self.category}.{self.place}"


class Budget(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The most that may be spent within a scope; `limit` is a decimal number as text."""

    scope: str
    measure: str
    limit: str
    source: str = ""


BUILT_IN = (
    DetectSetting(category="secrets", place=ARGUMENTS, action=FLAG, built_in=True),
    DetectSetting(category="secrets", place=PROMPT, action=REDACT, built_in=True),
    DetectSetting(category="secrets", place=RESULT, action=REDACT, built_in=True),
)


class Document(msgspec.Struct, frozen=True, kw_only=True):
    """A whole policy. Rules, settings and budgets are sorted, so that equal policies are equal.

    Nothing is left out of its bundle: a default that changes in a later version must not change what was accepted.
    """

    default: str = ALLOW
    allow_observe: bool = False
    rules: tuple[Rule, ...] = ()
    detect: tuple[DetectSetting, ...] = BUILT_IN
    budgets: tuple[Budget, ...] = ()
    default_source: str = ""

    def content(self) -> bytes:
        """Return the canonical bytes of what it says, whatever files say it and where."""
        return canonical(
            {
                "version": 1,
                "default": self.default,
                "allow_observe": self.allow_observe,
                "rules": [msgspec.structs.replace(rule, source="") for rule in self.rules],
                "detect": [msgspec.structs.replace(setting, source="") for setting in self.detect],
                "budgets": [msgspec.structs.replace(budget, source="") for budget in self.budgets],
            }
        )

    def pipeline_uuid(self) -> str:
        """Return the UUIDv5 of the content."""
        return str(uuid.uuid5(_NAMESPACE, self.content().decode()))

    def bundle(self) -> bytes:
        """Return the bytes it can be had back from, places included."""
        return canonical({"bundle": 1, "document": self})


class _Bundle(msgspec.Struct, kw_only=True):
    bundle: int
    document: Document


def from_bundle(body: bytes) -> Document:
    """Return the policy that `Document.bundle` wrote.

    Raises:
        msgspec.ValidationError: the bytes are of another shape or version.
    """
    read = msgspec.json.decode(body, type=_Bundle)
    if read.bundle != 1:
        raise msgspec.ValidationError(f"a policy bundle of version {read.bundle} cannot be read by this version")
    return read.document
