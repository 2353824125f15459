CREATE TABLE agent (
    agent_uuid TEXT COLLATE "C" NOT NULL,
    org_id TEXT COLLATE "C" DEFAULT '' NOT NULL,
    project_id TEXT COLLATE "C" DEFAULT '' NOT NULL,
    name TEXT COLLATE "C" DEFAULT '' NOT NULL,
    tier TEXT COLLATE "C" DEFAULT '' NOT NULL,
    framework TEXT COLLATE "C" DEFAULT '' NOT NULL,
    description TEXT COLLATE "C" DEFAULT '' NOT NULL,
    active INTEGER DEFAULT 1 NOT NULL,
    registered_by TEXT COLLATE "C" DEFAULT '' NOT NULL,
    registered_at TEXT COLLATE "C" DEFAULT '' NOT NULL,
    changed_seq BIGINT,
    PRIMARY KEY (agent_uuid),
    UNIQUE (org_id, project_id, name)
);

CREATE TABLE api_key (
    key_id TEXT COLLATE "C" NOT NULL,
    org_id TEXT COLLATE "C" DEFAULT '' NOT NULL,
    project_id TEXT COLLATE "C" DEFAULT '' NOT NULL,
    agent_uuid TEXT COLLATE "C" DEFAULT '' NOT NULL,
    person_id TEXT COLLATE "C" DEFAULT '' NOT NULL,
    digest BYTEA NOT NULL,
    scopes TEXT COLLATE "C" DEFAULT '' NOT NULL,
    label TEXT COLLATE "C" DEFAULT '' NOT NULL,
    created_by TEXT COLLATE "C" DEFAULT '' NOT NULL,
    created_at TEXT COLLATE "C" DEFAULT '' NOT NULL,
    expires_at TEXT COLLATE "C" DEFAULT '' NOT NULL,
    revoked_at TEXT COLLATE "C" DEFAULT '' NOT NULL,
    PRIMARY KEY (key_id),
    UNIQUE (digest)
);

CREATE TABLE approval (
    approval_id TEXT COLLATE "C" NOT NULL,
    org_id TEXT COLLATE "C" DEFAULT '' NOT NULL,
    project_id TEXT COLLATE "C" DEFAULT '' NOT NULL,
    session_id TEXT COLLATE "C" DEFAULT '' NOT NULL,
    task_id TEXT COLLATE "C" DEFAULT '' NOT NULL,
    agent_uuid TEXT COLLATE "C" DEFAULT '' NOT NULL,
    pipeline_uuid TEXT COLLATE "C" DEFAULT '' NOT NULL,
    state TEXT COLLATE "C" DEFAULT '' NOT NULL,
    action BYTEA,
    action_hmac BYTEA,
    definition_digest TEXT COLLATE "C" DEFAULT '' NOT NULL,
    token_digest BYTEA NOT NULL,
    rules TEXT COLLATE "C" DEFAULT '' NOT NULL,
    message TEXT COLLATE "C" DEFAULT '' NOT NULL,
    requested_by TEXT COLLATE "C" DEFAULT '' NOT NULL,
    approvers INTEGER DEFAULT 1 NOT NULL,
    requested_at TEXT COLLATE "C" DEFAULT '' NOT NULL,
    expires_at TEXT COLLATE "C" DEFAULT '' NOT NULL,
    decided_at TEXT COLLATE "C" DEFAULT '' NOT NULL,
    redeemed_at TEXT COLLATE "C" DEFAULT '' NOT NULL,
    redeemed_task_id TEXT COLLATE "C" DEFAULT '' NOT NULL,
    redemption_key TEXT COLLATE "C" DEFAULT '' NOT NULL,
    requested_seq BIGINT,
    decided_seq BIGINT,
    redeemed_seq BIGINT,
    PRIMARY KEY (approval_id),
    UNIQUE (token_digest)
);

CREATE INDEX approval_agent ON approval (agent_uuid, requested_at);

CREATE INDEX approval_session ON approval (session_id);

CREATE INDEX approval_state ON approval (org_id, state, requested_at);

CREATE TABLE approval_vote (
    approval_id TEXT COLLATE "C" NOT NULL,
    person_id TEXT COLLATE "C" NOT NULL,
    vote TEXT COLLATE "C" DEFAULT '' NOT NULL,
    reason TEXT COLLATE "C" DEFAULT '' NOT NULL,
    voted_at TEXT COLLATE "C" DEFAULT '' NOT NULL,
    voted_seq BIGINT,
    PRIMARY KEY (approval_id, person_id)
);

CREATE TABLE break_glass (
    break_glass_id TEXT COLLATE "C" NOT NULL,
    org_id TEXT COLLATE "C" DEFAULT '' NOT NULL,
    project_id TEXT COLLATE "C" DEFAULT '' NOT NULL,
    level TEXT COLLATE "C" DEFAULT '' NOT NULL,
    scope TEXT COLLATE "C" DEFAULT '' NOT NULL,
    reason TEXT COLLATE "C" DEFAULT '' NOT NULL,
    state TEXT COLLATE "C" DEFAULT '' NOT NULL,
    duration_s BIGINT DEFAULT 0 NOT NULL,
    activated_by TEXT COLLATE "C" DEFAULT '' NOT NULL,
    activated_at TEXT COLLATE "C" DEFAULT '' NOT NULL,
    confirmed_by TEXT COLLATE "C" DEFAULT '' NOT NULL,
    confirmed_at TEXT COLLATE "C" DEFAULT '' NOT NULL,
    expires_at TEXT COLLATE "C" DEFAULT '' NOT NULL,
    seen_at TEXT COLLATE "C" DEFAULT '' NOT NULL,
    ended_by TEXT COLLATE "C" DEFAULT '' NOT NULL,
    ended_at TEXT COLLATE "C" DEFAULT '' NOT NULL,
    reviewed_by TEXT COLLATE "C" DEFAULT '' NOT NULL,
    reviewed_at TEXT COLLATE "C" DEFAULT '' NOT NULL,
    review TEXT COLLATE "C" DEFAULT '' NOT NULL,
    changed_seq BIGINT,
    PRIMARY KEY (break_glass_id)
);

CREATE INDEX break_glass_state ON break_glass (org_id, state);

CREATE TABLE budget (
    org_id TEXT COLLATE "C" NOT NULL,
    project_id TEXT COLLATE "C" NOT NULL,
    scope TEXT COLLATE "C" NOT NULL,
    subject TEXT COLLATE "C" NOT NULL,
    period TEXT COLLATE "C" NOT NULL,
    unit TEXT COLLATE "C" NOT NULL,
    used BIGINT DEFAULT 0 NOT NULL,
    PRIMARY KEY (org_id, project_id, scope, subject, period, unit)
);

CREATE TABLE checkpoint (
    log_no BIGINT NOT NULL,
    size BIGINT NOT NULL,
    note TEXT COLLATE "C" DEFAULT '' NOT NULL,
    created_at TEXT COLLATE "C" DEFAULT '' NOT NULL,
    PRIMARY KEY (log_no, size)
);

CREATE TABLE correlation_token (
    token_id TEXT COLLATE "C" NOT NULL,
    org_id TEXT COLLATE "C" DEFAULT '' NOT NULL,
    session_id TEXT COLLATE "C" DEFAULT '' NOT NULL,
    audience TEXT COLLATE "C" DEFAULT '' NOT NULL,
    presented_by TEXT COLLATE "C" DEFAULT '' NOT NULL,
    expires_at TEXT COLLATE "C" DEFAULT '' NOT NULL,
    PRIMARY KEY (token_id)
);

CREATE TABLE idempotency (
    org_id TEXT COLLATE "C" NOT NULL,
    key TEXT COLLATE "C" NOT NULL,
    request_hmac BYTEA NOT NULL,
    response BYTEA,
    created_at TEXT COLLATE "C" DEFAULT '' NOT NULL,
    expires_at TEXT COLLATE "C" DEFAULT '' NOT NULL,
    PRIMARY KEY (org_id, key)
);

CREATE INDEX idempotency_expires ON idempotency (org_id, expires_at);

CREATE TABLE latch (
    session_id TEXT COLLATE "C" NOT NULL,
    action_hmac BYTEA NOT NULL,
    pipeline_uuid TEXT COLLATE "C" NOT NULL,
    org_id TEXT COLLATE "C" DEFAULT '' NOT NULL,
    task_id TEXT COLLATE "C" DEFAULT '' NOT NULL,
    approval_id TEXT COLLATE "C" DEFAULT '' NOT NULL,
    decision BYTEA NOT NULL,
    created_at TEXT COLLATE "C" DEFAULT '' NOT NULL,
    PRIMARY KEY (session_id, action_hmac, pipeline_uuid)
);

CREATE TABLE leaf (
    place BIGINT NOT NULL,
    log_no BIGINT DEFAULT 0 NOT NULL,
    seq BIGINT DEFAULT 0 NOT NULL,
    type TEXT COLLATE "C" DEFAULT '' NOT NULL,
    session_id TEXT COLLATE "C" DEFAULT '' NOT NULL,
    task_id TEXT COLLATE "C" DEFAULT '' NOT NULL,
    hash BYTEA NOT NULL,
    bytes BYTEA NOT NULL,
    salt BYTEA,
    body BYTEA,
    PRIMARY KEY (place)
);

CREATE INDEX leaf_session ON leaf (session_id);

CREATE TABLE log (
    log_no SERIAL NOT NULL,
    log_id TEXT COLLATE "C" NOT NULL,
    org_id TEXT COLLATE "C" NOT NULL,
    epoch BIGINT DEFAULT 0 NOT NULL,
    size BIGINT DEFAULT 0 NOT NULL,
    frontier BYTEA NOT NULL,
    control BIGINT DEFAULT 0 NOT NULL,
    created_at TEXT COLLATE "C" DEFAULT '' NOT NULL,
    PRIMARY KEY (log_no),
    UNIQUE (log_id),
    UNIQUE (org_id)
);

CREATE TABLE organisation (
    org_id TEXT COLLATE "C" NOT NULL,
    name TEXT COLLATE "C" DEFAULT '' NOT NULL,
    created_at TEXT COLLATE "C" DEFAULT '' NOT NULL,
    PRIMARY KEY (org_id)
);

CREATE TABLE person (
    person_id TEXT COLLATE "C" NOT NULL,
    org_id TEXT COLLATE "C" DEFAULT '' NOT NULL,
    name TEXT COLLATE "C" DEFAULT '' NOT NULL,
    roles TEXT COLLATE "C" DEFAULT '' NOT NULL,
    public_key TEXT COLLATE "C" DEFAULT '' NOT NULL,
    active INTEGER DEFAULT 1 NOT NULL,
    created_at TEXT COLLATE "C" DEFAULT '' NOT NULL,
    PRIMARY KEY (person_id),
    UNIQUE (org_id, name)
);

CREATE TABLE pin (
    org_id TEXT COLLATE "C" NOT NULL,
    project_id TEXT COLLATE "C" NOT NULL,
    server TEXT COLLATE "C" NOT NULL,
    name TEXT COLLATE "C" NOT NULL,
    digest TEXT COLLATE "C" NOT NULL,
    state TEXT COLLATE "C" DEFAULT '' NOT NULL,
    decided_by TEXT COLLATE "C" DEFAULT '' NOT NULL,
    decided_at TEXT COLLATE "C" DEFAULT '' NOT NULL,
    reason TEXT COLLATE "C" DEFAULT '' NOT NULL,
    changed_seq BIGINT,
    PRIMARY KEY (org_id, project_id, server, name, digest)
);

CREATE TABLE policy_version (
    org_id TEXT COLLATE "C" NOT NULL,
    project_id TEXT COLLATE "C" NOT NULL,
    pipeline_uuid TEXT COLLATE "C" NOT NULL,
    bundle BYTEA NOT NULL,
    settings BYTEA NOT NULL,
    sources_digest TEXT COLLATE "C" DEFAULT '' NOT NULL,
    first_seen_at TEXT COLLATE "C" DEFAULT '' NOT NULL,
    accepted_by TEXT COLLATE "C" DEFAULT '' NOT NULL,
    accepted_at TEXT COLLATE "C" DEFAULT '' NOT NULL,
    accepted_seq BIGINT,
    PRIMARY KEY (org_id, project_id, pipeline_uuid)
);

CREATE TABLE project (
    project_id TEXT COLLATE "C" NOT NULL,
    org_id TEXT COLLATE "C" DEFAULT '' NOT NULL,
    name TEXT COLLATE "C" DEFAULT '' NOT NULL,
    created_at TEXT COLLATE "C" DEFAULT '' NOT NULL,
    PRIMARY KEY (project_id),
    UNIQUE (org_id, name)
);

CREATE TABLE running_call (
    org_id TEXT COLLATE "C" NOT NULL,
    session_id TEXT COLLATE "C" NOT NULL,
    task_id TEXT COLLATE "C" NOT NULL,
    decided_at TEXT COLLATE "C" DEFAULT '' NOT NULL,
    PRIMARY KEY (org_id, session_id, task_id)
);

CREATE TABLE session (
    session_id TEXT COLLATE "C" NOT NULL,
    org_id TEXT COLLATE "C" DEFAULT '' NOT NULL,
    project_id TEXT COLLATE "C" DEFAULT '' NOT NULL,
    parent TEXT COLLATE "C" DEFAULT '' NOT NULL,
    agent_uuid TEXT COLLATE "C" DEFAULT '' NOT NULL,
    pipeline_uuid TEXT COLLATE "C" DEFAULT '' NOT NULL,
    kind TEXT COLLATE "C" DEFAULT '' NOT NULL,
    name TEXT COLLATE "C" DEFAULT '' NOT NULL,
    mode TEXT COLLATE "C" DEFAULT '' NOT NULL,
    tier TEXT COLLATE "C" DEFAULT '' NOT NULL,
    status TEXT COLLATE "C" DEFAULT '' NOT NULL,
    implicit INTEGER DEFAULT 0 NOT NULL,
    traceparent TEXT COLLATE "C" DEFAULT '' NOT NULL,
    openings BIGINT DEFAULT 0 NOT NULL,
    opened_at TEXT COLLATE "C" DEFAULT '' NOT NULL,
    closed_at TEXT COLLATE "C" DEFAULT '' NOT NULL,
    opened_seq BIGINT,
    closed_seq BIGINT,
    metadata BYTEA,
    PRIMARY KEY (session_id)
);

CREATE INDEX session_opened ON session (org_id, opened_at);

CREATE INDEX session_parent ON session (parent);

CREATE TABLE setting (
    org_id TEXT COLLATE "C" NOT NULL,
    key TEXT COLLATE "C" NOT NULL,
    value TEXT COLLATE "C" DEFAULT '' NOT NULL,
    updated_at TEXT COLLATE "C" DEFAULT '' NOT NULL,
    changed_seq BIGINT,
    PRIMARY KEY (org_id, key)
);

CREATE TABLE signing_key (
    key_id TEXT COLLATE "C" NOT NULL,
    org_id TEXT COLLATE "C" DEFAULT '' NOT NULL,
    purpose TEXT COLLATE "C" DEFAULT '' NOT NULL,
    public_key TEXT COLLATE "C" DEFAULT '' NOT NULL,
    created_at TEXT COLLATE "C" DEFAULT '' NOT NULL,
    retired_at TEXT COLLATE "C" DEFAULT '' NOT NULL,
    PRIMARY KEY (key_id)
);

CREATE TABLE tool_definition (
    org_id TEXT COLLATE "C" NOT NULL,
    project_id TEXT COLLATE "C" NOT NULL,
    digest TEXT COLLATE "C" NOT NULL,
    server TEXT COLLATE "C" DEFAULT '' NOT NULL,
    name TEXT COLLATE "C" DEFAULT '' NOT NULL,
    definition BYTEA NOT NULL,
    first_seen_at TEXT COLLATE "C" DEFAULT '' NOT NULL,
    first_seen_seq BIGINT,
    PRIMARY KEY (org_id, project_id, digest)
);

CREATE TABLE visit (
    digest BYTEA NOT NULL,
    org_id TEXT COLLATE "C" DEFAULT '' NOT NULL,
    key_digest BYTEA NOT NULL,
    started_at TEXT COLLATE "C" DEFAULT '' NOT NULL,
    seen_at TEXT COLLATE "C" DEFAULT '' NOT NULL,
    PRIMARY KEY (digest)
);

