"""Where SQLite and PostgreSQL want other words: the engine writes what both take, and `?` for parameters."""

from __future__ import annotations

from functools import lru_cache


@lru_cache(maxsize=1024)
def translated(sql: str) -> str:
    """Return a statement with `?` parameters as psycopg takes it; no statement of ours has a `?` in a literal."""
    return sql.replace("%", "%%").replace("?", "%s")


@lru_cache(maxsize=1024)
def only_reads(sql: str) -> bool:
    """Tell whether a statement changes no row."""
    return sql.lstrip().split(None, 1)[0].upper() in ("SELECT", "WITH")


class Dialect:
    """Expressions as one of them writes them.

    Attributes:
        agent_uuid: the agent that a leaf names.
        pipeline_uuid: the pipeline that a leaf names.
        key_by_digest: what to select an api key from, whoever's it is; one parameter.
        organisations: what to select every organisation from.
    """

    def __init__(
        self, *, outcome: str, agent_uuid: str, pipeline_uuid: str, key_by_digest: str, organisations: str
    ) -> None:
        self._outcome = outcome
        self.agent_uuid = agent_uuid
        self.pipeline_uuid = pipeline_uuid
        self.key_by_digest = key_by_digest
        self.organisations = organisations

    def decided(self, outcome: str) -> str:
        """Return the condition that a decided leaf says `allow`, `block` or `needs_approval`."""
        # No text in a leaf can look like this, its quotes are escaped.
        return self._outcome.replace("OUTCOME", f'"outcome":"{outcome}"')


SQLITE = Dialect(
    outcome="instr(leaf.bytes, CAST('OUTCOME' AS BLOB)) > 0",
    agent_uuid="json_extract(CAST(bytes AS TEXT), '$.agent_uuid')",
    pipeline_uuid="json_extract(CAST(bytes AS TEXT), '$.pipeline_uuid')",
    key_by_digest="api_key WHERE digest = ?",
    organisations="organisation",
)
POSTGRESQL = Dialect(
    outcome="position('OUTCOME'::bytea IN leaf.bytes) > 0",
    # A character that no PostgreSQL text can hold is in no uuid, but may be in a leaf: hence no `jsonb`.
    agent_uuid='substring(convert_from(bytes, \'UTF8\') FROM \'"agent_uuid":"([^"]*)"\')',
    pipeline_uuid='substring(convert_from(bytes, \'UTF8\') FROM \'"pipeline_uuid":"([^"]*)"\')',
    key_by_digest="tappass_api_key(?)",
    organisations="tappass_organisations()",
)
