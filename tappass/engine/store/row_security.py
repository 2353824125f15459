"""The second wall on PostgreSQL: policies that show an organisation its own rows alone, and a role that owns nothing.

As `schema`, never imported by what serves: the SQL in `migrations/` is generated from here.
"""

from __future__ import annotations

from tappass.engine.store.schema import metadata

_OWN = "org_id = current_setting('tappass.org_id', true)"
_OWN_LOG = f"log_no = (SELECT log_no FROM log WHERE {_OWN})"  # noqa: S608 - our own constants
# Which rows are an organisation's, where no column says so.
_OWNED = {
    "leaf": _OWN_LOG,
    "checkpoint": _OWN_LOG,
    "approval_vote": "EXISTS (SELECT 1 FROM approval WHERE approval.approval_id = approval_vote.approval_id)",
}
# What is written once: not even a mistake in a query changes it. Erasing content is what `leaf` allows.
_GRANTS = {
    "log": "SELECT, INSERT, UPDATE",
    "leaf": "SELECT, INSERT, UPDATE (salt, body)",
    "checkpoint": "SELECT, INSERT",
    "approval_vote": "SELECT, INSERT",
}
_SERVICE = """DO $$ BEGIN
    CREATE ROLE tappass_service NOLOGIN;
EXCEPTION WHEN duplicate_object OR unique_violation OR insufficient_privilege THEN NULL;
END $$;

"""
# Set inside, not by the functions' own SET: only a superuser may write a parameter that is nobody's there.
_ACROSS = """CREATE POLICY found_by_digest ON api_key FOR SELECT
    USING (current_setting('tappass.finding', true) = 'api_key');

CREATE FUNCTION tappass_api_key(wanted BYTEA) RETURNS SETOF api_key
    LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path FROM CURRENT AS $$ BEGIN
    PERFORM set_config('tappass.finding', 'api_key', true);
    RETURN QUERY SELECT * FROM api_key WHERE digest = wanted;
    PERFORM set_config('tappass.finding', '', true);
END $$;

CREATE POLICY listed ON organisation FOR SELECT
    USING (current_setting('tappass.finding', true) = 'organisation');

CREATE FUNCTION tappass_organisations() RETURNS SETOF organisation
    LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path FROM CURRENT AS $$ BEGIN
    PERFORM set_config('tappass.finding', 'organisation', true);
    RETURN QUERY SELECT * FROM organisation ORDER BY org_id;
    PERFORM set_config('tappass.finding', '', true);
END $$;

"""
_GRANT = """DO $$ BEGIN
    IF EXISTS (SELECT 1 FROM pg_roles WHERE rolname = 'tappass_service') THEN
{}
    END IF;
END $$;
"""


def security() -> str:
    """Return the SQL that keeps organisations apart on PostgreSQL, and the role that a server works as."""
    written, grants = [_SERVICE], []
    for each in metadata.sorted_tables:
        own = _OWN if "org_id" in each.columns else _OWNED[each.name]
        written += [
            f"ALTER TABLE {each.name} ENABLE ROW LEVEL SECURITY;\n",
            f"ALTER TABLE {each.name} FORCE ROW LEVEL SECURITY;\n",
            f"CREATE POLICY own ON {each.name} USING ({own});\n\n",
        ]
        rights = _GRANTS.get(each.name, "SELECT, INSERT, UPDATE, DELETE")
        grants.append(f"        GRANT {rights} ON {each.name} TO tappass_service;")
    grants.append("        GRANT USAGE ON SEQUENCE log_log_no_seq TO tappass_service;")
    return "".join([*written, _ACROSS, _GRANT.format("\n".join(grants))])
