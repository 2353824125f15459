DO $$ BEGIN
    CREATE ROLE tappass_service NOLOGIN;
EXCEPTION WHEN duplicate_object OR unique_violation OR insufficient_privilege THEN NULL;
END $$;

ALTER TABLE agent ENABLE ROW LEVEL SECURITY;
ALTER TABLE agent FORCE ROW LEVEL SECURITY;
CREATE POLICY own ON agent USING (org_id = current_setting('tappass.org_id', true));

ALTER TABLE api_key ENABLE ROW LEVEL SECURITY;
ALTER TABLE api_key FORCE ROW LEVEL SECURITY;
CREATE POLICY own ON api_key USING (org_id = current_setting('tappass.org_id', true));

ALTER TABLE approval ENABLE ROW LEVEL SECURITY;
ALTER TABLE approval FORCE ROW LEVEL SECURITY;
CREATE POLICY own ON approval USING (org_id = current_setting('tappass.org_id', true));

ALTER TABLE approval_vote ENABLE ROW LEVEL SECURITY;
ALTER TABLE approval_vote FORCE ROW LEVEL SECURITY;
CREATE POLICY own ON approval_vote USING (EXISTS (SELECT 1 FROM approval WHERE approval.approval_id = approval_vote.approval_id));

ALTER TABLE break_glass ENABLE ROW LEVEL SECURITY;
ALTER TABLE break_glass FORCE ROW LEVEL SECURITY;
CREATE POLICY own ON break_glass USING (org_id = current_setting('tappass.org_id', true));

ALTER TABLE budget ENABLE ROW LEVEL SECURITY;
ALTER TABLE budget FORCE ROW LEVEL SECURITY;
CREATE POLICY own ON budget USING (org_id = current_setting('tappass.org_id', true));

ALTER TABLE checkpoint ENABLE ROW LEVEL SECURITY;
ALTER TABLE checkpoint FORCE ROW LEVEL SECURITY;
CREATE POLICY own ON checkpoint USING (log_no = (SELECT log_no FROM log WHERE org_id = current_setting('tappass.org_id', true)));

ALTER TABLE correlation_token ENABLE ROW LEVEL SECURITY;
ALTER TABLE correlation_token FORCE ROW LEVEL SECURITY;
CREATE POLICY own ON correlation_token USING (org_id = current_setting('tappass.org_id', true));

ALTER TABLE idempotency ENABLE ROW LEVEL SECURITY;
ALTER TABLE idempotency FORCE ROW LEVEL SECURITY;
CREATE POLICY own ON idempotency USING (org_id = current_setting('tappass.org_id', true));

ALTER TABLE latch ENABLE ROW LEVEL SECURITY;
ALTER TABLE latch FORCE ROW LEVEL SECURITY;
CREATE POLICY own ON latch USING (org_id = current_setting('tappass.org_id', true));

ALTER TABLE leaf ENABLE ROW LEVEL SECURITY;
ALTER TABLE leaf FORCE ROW LEVEL SECURITY;
CREATE POLICY own ON leaf USING (log_no = (SELECT log_no FROM log WHERE org_id = current_setting('tappass.org_id', true)));

ALTER TABLE log ENABLE ROW LEVEL SECURITY;
ALTER TABLE log FORCE ROW LEVEL SECURITY;
CREATE POLICY own ON log USING (org_id = current_setting('tappass.org_id', true));

ALTER TABLE organisation ENABLE ROW LEVEL SECURITY;
ALTER TABLE organisation FORCE ROW LEVEL SECURITY;
CREATE POLICY own ON organisation USING (org_id = current_setting('tappass.org_id', true));

ALTER TABLE person ENABLE ROW LEVEL SECURITY;
ALTER TABLE person FORCE ROW LEVEL SECURITY;
CREATE POLICY own ON person USING (org_id = current_setting('tappass.org_id', true));

ALTER TABLE pin ENABLE ROW LEVEL SECURITY;
ALTER TABLE pin FORCE ROW LEVEL SECURITY;
CREATE POLICY own ON pin USING (org_id = current_setting('tappass.org_id', true));

ALTER TABLE policy_version ENABLE ROW LEVEL SECURITY;
ALTER TABLE policy_version FORCE ROW LEVEL SECURITY;
CREATE POLICY own ON policy_version USING (org_id = current_setting('tappass.org_id', true));

ALTER TABLE project ENABLE ROW LEVEL SECURITY;
ALTER TABLE project FORCE ROW LEVEL SECURITY;
CREATE POLICY own ON project USING (org_id = current_setting('tappass.org_id', true));

ALTER TABLE running_call ENABLE ROW LEVEL SECURITY;
ALTER TABLE running_call FORCE ROW LEVEL SECURITY;
CREATE POLICY own ON running_call USING (org_id = current_setting('tappass.org_id', true));

ALTER TABLE session ENABLE ROW LEVEL SECURITY;
ALTER TABLE session FORCE ROW LEVEL SECURITY;
CREATE POLICY own ON session USING (org_id = current_setting('tappass.org_id', true));

ALTER TABLE setting ENABLE ROW LEVEL SECURITY;
ALTER TABLE setting FORCE ROW LEVEL SECURITY;
CREATE POLICY own ON setting USING (org_id = current_setting('tappass.org_id', true));

ALTER TABLE signing_key ENABLE ROW LEVEL SECURITY;
ALTER TABLE signing_key FORCE ROW LEVEL SECURITY;
CREATE POLICY own ON signing_key USING (org_id = current_setting('tappass.org_id', true));

ALTER TABLE tool_definition ENABLE ROW LEVEL SECURITY;
ALTER TABLE tool_definition FORCE ROW LEVEL SECURITY;
CREATE POLICY own ON tool_definition USING (org_id = current_setting('tappass.org_id', true));

ALTER TABLE visit ENABLE ROW LEVEL SECURITY;
ALTER TABLE visit FORCE ROW LEVEL SECURITY;
CREATE POLICY own ON visit USING (org_id = current_setting('tappass.org_id', true));

CREATE POLICY found_by_digest ON api_key FOR SELECT
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

DO $$ BEGIN
    IF EXISTS (SELECT 1 FROM pg_roles WHERE rolname = 'tappass_service') THEN
        GRANT SELECT, INSERT, UPDATE, DELETE ON agent TO tappass_service;
        GRANT SELECT, INSERT, UPDATE, DELETE ON api_key TO tappass_service;
        GRANT SELECT, INSERT, UPDATE, DELETE ON approval TO tappass_service;
        GRANT SELECT, INSERT ON approval_vote TO tappass_service;
        GRANT SELECT, INSERT, UPDATE, DELETE ON break_glass TO tappass_service;
        GRANT SELECT, INSERT, UPDATE, DELETE ON budget TO tappass_service;
        GRANT SELECT, INSERT ON checkpoint TO tappass_service;
        GRANT SELECT, INSERT, UPDATE, DELETE ON correlation_token TO tappass_service;
        GRANT SELECT, INSERT, UPDATE, DELETE ON idempotency TO tappass_service;
        GRANT SELECT, INSERT, UPDATE, DELETE ON latch TO tappass_service;
        GRANT SELECT, INSERT, UPDATE (salt, body) ON leaf TO tappass_service;
        GRANT SELECT, INSERT, UPDATE ON log TO tappass_service;
        GRANT SELECT, INSERT, UPDATE, DELETE ON organisation TO tappass_service;
        GRANT SELECT, INSERT, UPDATE, DELETE ON person TO tappass_service;
        GRANT SELECT, INSERT, UPDATE, DELETE ON pin TO tappass_service;
        GRANT SELECT, INSERT, UPDATE, DELETE ON policy_version TO tappass_service;
        GRANT SELECT, INSERT, UPDATE, DELETE ON project TO tappass_service;
        GRANT SELECT, INSERT, UPDATE, DELETE ON running_call TO tappass_service;
        GRANT SELECT, INSERT, UPDATE, DELETE ON session TO tappass_service;
        GRANT SELECT, INSERT, UPDATE, DELETE ON setting TO tappass_service;
        GRANT SELECT, INSERT, UPDATE, DELETE ON signing_key TO tappass_service;
        GRANT SELECT, INSERT, UPDATE, DELETE ON tool_definition TO tappass_service;
        GRANT SELECT, INSERT, UPDATE, DELETE ON visit TO tappass_service;
        GRANT USAGE ON SEQUENCE log_log_no_seq TO tappass_service;
    END IF;
END $$;
