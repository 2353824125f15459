"""The tables, as SQLAlchemy Core metadata: what a migration is written from and what admin queries are built on.

Never imported on the decide path: the SQL in `migrations/` is generated from here (a test compares the two) and is
what a fresh database runs. Times are RFC 3339 text, UTC. `*_seq` is the place in the log of the leaf that says so.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Index, Integer, LargeBinary, MetaData, Table, UniqueConstraint, text
from sqlalchemy import Text as AnyText

metadata = MetaData()

# By code point, as SQLite compares: the order of times and ids may not depend on the locale of a server.
Text = AnyText().with_variant(AnyText(collation="C"), "postgresql")


def _text(name: str, *, key: bool = False) -> Column[str]:
    """Return a text column; an absent text is empty, so that no comparison meets NULL."""
    return Column(name, Text, primary_key=key, nullable=False, server_default=None if key else "")


def _number(name: str, *, key: bool = False) -> Column[int]:
    return Column(name, BigInteger, primary_key=key, nullable=False, server_default=None if key else text("0"))


def _seq(name: str) -> Column[int]:
    """Return a column for a place in the log; NULL until that leaf is written."""
    return Column(name, BigInteger, nullable=True)


def _bytes(name: str, *, key: bool = False, nullable: bool = False) -> Column[bytes]:
    return Column(name, LargeBinary, primary_key=key, nullable=nullable)


def _table(name: str, *columns: Column[str] | Column[int] | Column[bytes] | Index | UniqueConstraint) -> Table:
    return Table(name, metadata, *columns)


# Who there is.
organisation = _table("organisation", _text("org_id", key=True), _text("name"), _text("created_at"))
project = _table(
    "project",
    _text("project_id", key=True),
    _text("org_id"),
    _text("name"),
    _text("created_at"),
    UniqueConstraint("org_id", "name"),
)
agent = _table(
    "agent",
    _text("agent_uuid", key=True),
    _text("org_id"),
    _text("project_id"),
    _text("name"),
    _text("tier"),
    _text("framework"),
    _text("description"),
    Column("active", Integer, nullable=False, server_default=text("1")),
    _text("registered_by"),
    _text("registered_at"),
    _seq("changed_seq"),
    UniqueConstraint("org_id", "project_id", "name"),
)
person = _table(
    "person",
    _text("person_id", key=True),
    _text("org_id"),
    _text("name"),
    _text("roles"),
    _text("public_key"),
    Column("active", Integer, nullable=False, server_default=text("1")),
    _text("created_at"),
    UniqueConstraint("org_id", "name"),
)
api_key = _table(
    "api_key",
    _text("key_id", key=True),
    _text("org_id"),
    _text("project_id"),
    _text("agent_uuid"),
    _text("person_id"),
    Column("digest", LargeBinary, nullable=False, unique=True),
    _text("scopes"),
    _text("label"),
    _text("created_by"),
    _text("created_at"),
    _text("expires_at"),
    _text("revoked_at"),
)
# A person at the pages, by a cookie that the database holds the digest of; `key_digest` is the key they showed.
visit = _table(
    "visit",
    Column("digest", LargeBinary, primary_key=True),
    _text("org_id"),
    Column("key_digest", LargeBinary, nullable=False),
    _text("started_at"),
    _text("seen_at"),
)

# What they do.
session = _table(
    "session",
    _text("session_id", key=True),
    _text("org_id"),
    _text("project_id"),
    _text("parent"),
    _text("agent_uuid"),
    _text("pipeline_uuid"),
    _text("kind"),
    _text("name"),
    _text("mode"),
    _text("tier"),
    _text("status"),
    Column("implicit", Integer, nullable=False, server_default=text("0")),
    _text("traceparent"),
    # How often it was opened: a close that was sent before a reopening closes nothing.
    _number("openings"),
    _text("opened_at"),
    _text("closed_at"),
    _seq("opened_seq"),
    _seq("closed_seq"),
    # Content. Rules read it, so it is exact until the session has ended; then it is what `audit.content` keeps.
    _bytes("metadata", nullable=True),
    Index("session_opened", "org_id", "opened_at"),
    Index("session_parent", "parent"),
)
latch = _table(
    "latch",
    _text("session_id", key=True),
    _bytes("action_hmac", key=True),
    _text("pipeline_uuid", key=True),
    _text("org_id"),
    _text("task_id"),
    _text("approval_id"),
    _bytes("decision"),
    _text("created_at"),
)
idempotency = _table(
    "idempotency",
    _text("org_id", key=True),
    _text("key", key=True),
    _bytes("request_hmac"),
    _bytes("response", nullable=True),
    _text("created_at"),
    _text("expires_at"),
    Index("idempotency_expires", "org_id", "expires_at"),
)
# The calls that a server let run and that have not ended: whoever takes the row away writes the ending, so that it is
# written once wherever it arrives. A process with a database of its own knows its running calls without.
running_call = _table(
    "running_call",
    _text("org_id", key=True),
    _text("session_id", key=True),
    _text("task_id", key=True),
    _text("decided_at"),
)
correlation_token = _table(
    "correlation_token",
    _text("token_id", key=True),
    _text("org_id"),
    _text("session_id"),
    _text("audience"),
    _text("presented_by"),
    _text("expires_at"),
)

# The log.
log = _table(
    "log",
    Column("log_no", Integer, primary_key=True),
    Column("log_id", Text, nullable=False, unique=True),
    Column("org_id", Text, nullable=False, unique=True),
    _number("epoch"),
    _number("size"),
    _bytes("frontier"),
    # Raised by every change that people make to tiers, pins or break-glass: who decides knows when to look again.
    _number("control"),
    _text("created_at"),
)
# A leaf and its content lie side by side, the content last, so that a call touches as few pages as can be (each costs
# 4 µs) and a scan of the log does not read them. Erasing content sets `salt` and `body` to NULL.
leaf = _table(
    "leaf",
    # log_no * 2^40 + seq: one integer is the only key that SQLite appends by without a second tree.
    Column("place", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=False),
    _number("log_no"),
    _number("seq"),
    _text("type"),
    _text("session_id"),
    _text("task_id"),
    # As it was when written: what names the leaf that was changed since, where a root only says that one was.
    _bytes("hash"),
    _bytes("bytes"),
    _bytes("salt", nullable=True),
    _bytes("body", nullable=True),
    # One short index is what the decide path can afford (6 µs of a call); a task is found through its session.
    Index("leaf_session", "session_id"),
)
checkpoint = _table(
    "checkpoint", _number("log_no", key=True), _number("size", key=True), _text("note"), _text("created_at")
)
signing_key = _table(
    "signing_key",
    _text("key_id", key=True),
    _text("org_id"),
    _text("purpose"),
    _text("public_key"),
    _text("created_at"),
    _text("retired_at"),
)

# What they may do.
policy_version = _table(
    "policy_version",
    _text("org_id", key=True),
    _text("project_id", key=True),
    _text("pipeline_uuid", key=True),
    _bytes("bundle"),
    _bytes("settings"),
    _text("sources_digest"),
    _text("first_seen_at"),
    _text("accepted_by"),
    _text("accepted_at"),
    _seq("accepted_seq"),
)
tool_definition = _table(
    "tool_definition",
    _text("org_id", key=True),
    _text("project_id", key=True),
    _text("digest", key=True),
    _text("server"),
    _text("name"),
    _bytes("definition"),
    _text("first_seen_at"),
    _seq("first_seen_seq"),
)
pin = _table(
    "pin",
    _text("org_id", key=True),
    _text("project_id", key=True),
    _text("server", key=True),
    _text("name", key=True),
    _text("digest", key=True),
    _text("state"),
    _text("decided_by"),
    _text("decided_at"),
    _text("reason"),
    _seq("changed_seq"),
)
approval = _table(
    "approval",
    _text("approval_id", key=True),
    _text("org_id"),
    _text("project_id"),
    _text("session_id"),
    _text("task_id"),
    _text("agent_uuid"),
    _text("pipeline_uuid"),
    _text("state"),
    _bytes("action", nullable=True),
    _bytes("action_hmac", nullable=True),
    _text("definition_digest"),
    Column("token_digest", LargeBinary, nullable=False, unique=True),
    _text("rules"),
    _text("message"),
    _text("requested_by"),
    Column("approvers", Integer, nullable=False, server_default=text("1")),
    _text("requested_at"),
    _text("expires_at"),
    _text("decided_at"),
    _text("redeemed_at"),
    _text("redeemed_task_id"),
    _text("redemption_key"),
    _seq("requested_seq"),
    _seq("decided_seq"),
    _seq("redeemed_seq"),
    Index("approval_state", "org_id", "state", "requested_at"),
    Index("approval_session", "session_id"),
    Index("approval_agent", "agent_uuid", "requested_at"),
)
approval_vote = _table(
    "approval_vote",
    _text("approval_id", key=True),
    _text("person_id", key=True),
    _text("vote"),
    _text("reason"),
    _text("voted_at"),
    _seq("voted_seq"),
)
break_glass = _table(
    "break_glass",
    _text("break_glass_id", key=True),
    _text("org_id"),
    _text("project_id"),
    _text("level"),
    _text("scope"),
    _text("reason"),
    _text("state"),
    _number("duration_s"),
    _text("activated_by"),
    _text("activated_at"),
    _text("confirmed_by"),
    _text("confirmed_at"),
    _text("expires_at"),
    # The latest time any process saw it: a clock set back may not bring an expired one to life.
    _text("seen_at"),
    _text("ended_by"),
    _text("ended_at"),
    _text("reviewed_by"),
    _text("reviewed_at"),
    _text("review"),
    _seq("changed_seq"),
    Index("break_glass_state", "org_id", "state"),
)
budget = _table(
    "budget",
    _text("org_id", key=True),
    _text("project_id", key=True),
    _text("scope", key=True),
    _text("subject", key=True),
    _text("period", key=True),
    _text("unit", key=True),
    _number("used"),
)
setting = _table(
    "setting",
    _text("org_id", key=True),
    _text("key", key=True),
    _text("value"),
    _text("updated_at"),
    _seq("changed_seq"),
)


# SQLite keeps a composite key twice unless the table is the key's own tree.
for _each in metadata.tables.values():
    if len(_each.primary_key) > 1:
        _each.dialect_options["sqlite"]["with_rowid"] = False


def ddl(dialect: str) -> str:
    """Return the SQL that creates every table, for `sqlite` or `postgresql`."""
    from sqlalchemy.dialects import postgresql, sqlite
    from sqlalchemy.schema import CreateIndex, CreateTable

    target = {"sqlite": sqlite, "postgresql": postgresql}[dialect].dialect()
    statements = []
    for each in metadata.sorted_tables:
        statements.append(str(CreateTable(each).compile(dialect=target)).strip())
        statements += [
            str(CreateIndex(index).compile(dialect=target)).strip()
            for index in sorted(each.indexes, key=lambda index: str(index.name))
        ]
    return "".join(f"{statement.replace(chr(9), '    ')};\n\n" for statement in statements)
