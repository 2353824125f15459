CREATE TABLE agent (
    agent_uuid TEXT NOT NULL,
    org_id TEXT DEFAULT '' NOT NULL,
    project_id TEXT DEFAULT '' NOT NULL,
    name TEXT DEFAULT '' NOT NULL,
    tier TEXT DEFAULT '' NOT NULL,
    framework TEXT DEFAULT '' NOT NULL,
    description TEXT DEFAULT '' NOT NULL,
    active INTEGER DEFAULT 1 NOT NULL,
    registered_by TEXT DEFAULT '' NOT NULL,
    registered_at TEXT DEFAULT '' NOT NULL,
    changed_seq BIGINT,
    PRIMARY KEY (agent_uuid),
    UNIQUE (org_id, project_id, name)
);

CREATE TABLE api_key (
    key_id TEXT NOT NULL,
    org_id TEXT DEFAULT '' NOT NULL,
    project_id TEXT DEFAULT '' NOT NULL,
    agent_uuid TEXT DEFAULT '' NOT NULL,
    person_id TEXT DEFAULT '' NOT NULL,
    digest BLOB NOT NULL,
    scopes TEXT DEFAULT '' NOT NULL,
    label TEXT DEFAULT '' NOT NULL,
    created_by TEXT DEFAULT '' NOT NULL,
    created_at TEXT DEFAULT '' NOT NULL,
    expires_at TEXT DEFAULT '' NOT NULL,
    revoked_at TEXT DEFAULT '' NOT NULL,
    PRIMARY KEY (key_id),
    UNIQUE (digest)
);

CREATE TABLE approval (
    approval_id TEXT NOT NULL,
    org_id TEXT DEFAULT '' NOT NULL,
    project_id TEXT DEFAULT '' NOT NULL,
    session_id TEXT DEFAULT '' NOT NULL,
    task_id TEXT DEFAULT '' NOT NULL,
    agent_uuid TEXT DEFAULT '' NOT NULL,
    pipeline_uuid TEXT DEFAULT '' NOT NULL,
    state TEXT DEFAULT '' NOT NULL,
    action BLOB,
    action_hmac BLOB,
    definition_digest TEXT DEFAULT '' NOT NULL,
    token_digest BLOB NOT NULL,
    rules TEXT DEFAULT '' NOT NULL,
    message TEXT DEFAULT '' NOT NULL,
    requested_by TEXT DEFAULT '' NOT NULL,
    approvers INTEGER DEFAULT 1 NOT NULL,
    requested_at TEXT DEFAULT '' NOT NULL,
    expires_at TEXT DEFAULT '' NOT NULL,
    decided_at TEXT DEFAULT '' NOT NULL,
    redeemed_at TEXT DEFAULT '' NOT NULL,
    redeemed_task_id TEXT DEFAULT '' NOT NULL,
    redemption_key TEXT DEFAULT '' NOT NULL,
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
    approval_id TEXT NOT NULL,
    person_id TEXT NOT NULL,
    vote TEXT DEFAULT '' NOT NULL,
    reason TEXT DEFAULT '' NOT NULL,
    voted_at TEXT DEFAULT '' NOT NULL,
    voted_seq BIGINT,
    PRIMARY KEY (approval_id, person_id)
)
 WITHOUT ROWID;

CREATE TABLE break_glass (
    break_glass_id TEXT NOT NULL,
    org_id TEXT DEFAULT '' NOT NULL,
    project_id TEXT DEFAULT '' NOT NULL,
    level TEXT DEFAULT '' NOT NULL,
    scope TEXT DEFAULT '' NOT NULL,
    reason TEXT DEFAULT '' NOT NULL,
    state TEXT DEFAULT '' NOT NULL,
    duration_s BIGINT DEFAULT 0 NOT NULL,
    activated_by TEXT DEFAULT '' NOT NULL,
    activated_at TEXT DEFAULT '' NOT NULL,
    confirmed_by TEXT DEFAULT '' NOT NULL,
    confirmed_at TEXT DEFAULT '' NOT NULL,
    expires_at TEXT DEFAULT '' NOT NULL,
    seen_at TEXT DEFAULT '' NOT NULL,
    ended_by TEXT DEFAULT '' NOT NULL,
    ended_at TEXT DEFAULT '' NOT NULL,
    reviewed_by TEXT DEFAULT '' NOT NULL,
    reviewed_at TEXT DEFAULT '' NOT NULL,
    review TEXT DEFAULT '' NOT NULL,
    changed_seq BIGINT,
    PRIMARY KEY (break_glass_id)
);

CREATE INDEX break_glass_state ON break_glass (org_id, state);

CREATE TABLE budget (
    org_id TEXT NOT NULL,
    project_id TEXT NOT NULL,
    scope TEXT NOT NULL,
    subject TEXT NOT NULL,
    period TEXT NOT NULL,
    unit TEXT NOT NULL,
    used BIGINT DEFAULT 0 NOT NULL,
    PRIMARY KEY (org_id, project_id, scope, subject, period, unit)
)
 WITHOUT ROWID;

CREATE TABLE checkpoint (
    log_no BIGINT NOT NULL,
    size BIGINT NOT NULL,
    note TEXT DEFAULT '' NOT NULL,
    created_at TEXT DEFAULT '' NOT NULL,
    PRIMARY KEY (log_no, size)
)
 WITHOUT ROWID;

CREATE TABLE correlation_token (
    token_id TEXT NOT NULL,
    org_id TEXT DEFAULT '' NOT NULL,
    session_id TEXT DEFAULT '' NOT NULL,
    audience TEXT DEFAULT '' NOT NULL,
    presented_by TEXT DEFAULT '' NOT NULL,
    expires_at TEXT DEFAULT '' NOT NULL,
    PRIMARY KEY (token_id)
);

CREATE TABLE idempotency (
    org_id TEXT NOT NULL,
    "key" TEXT NOT NULL,
    request_hmac BLOB NOT NULL,
    response BLOB,
    created_at TEXT DEFAULT '' NOT NULL,
    expires_at TEXT DEFAULT '' NOT NULL,
    PRIMARY KEY (org_id, "key")
)
 WITHOUT ROWID;

CREATE INDEX idempotency_expires ON idempotency (org_id, expires_at);

CREATE TABLE latch (
    session_id TEXT NOT NULL,
    action_hmac BLOB NOT NULL,
    pipeline_uuid TEXT NOT NULL,
    org_id TEXT DEFAULT '' NOT NULL,
    task_id TEXT DEFAULT '' NOT NULL,
    approval_id TEXT DEFAULT '' NOT NULL,
    decision BLOB NOT NULL,
    created_at TEXT DEFAULT '' NOT NULL,
    PRIMARY KEY (session_id, action_hmac, pipeline_uuid)
)
 WITHOUT ROWID;

CREATE TABLE leaf (
    place INTEGER NOT NULL,
    log_no BIGINT DEFAULT 0 NOT NULL,
    seq BIGINT DEFAULT 0 NOT NULL,
    type TEXT DEFAULT '' NOT NULL,
    session_id TEXT DEFAULT '' NOT NULL,
    task_id TEXT DEFAULT '' NOT NULL,
    hash BLOB NOT NULL,
    bytes BLOB NOT NULL,
    salt BLOB,
    body BLOB,
    PRIMARY KEY (place)
);

CREATE INDEX leaf_session ON leaf (session_id);

CREATE TABLE log (
    log_no INTEGER NOT NULL,
    log_id TEXT NOT NULL,
    org_id TEXT NOT NULL,
    epoch BIGINT DEFAULT 0 NOT NULL,
    size BIGINT DEFAULT 0 NOT NULL,
    frontier BLOB NOT NULL,
    control BIGINT DEFAULT 0 NOT NULL,
    created_at TEXT DEFAULT '' NOT NULL,
    PRIMARY KEY (log_no),
    UNIQUE (log_id),
    UNIQUE (org_id)
);

CREATE TABLE organisation (
    org_id TEXT NOT NULL,
    name TEXT DEFAULT '' NOT NULL,
    created_at TEXT DEFAULT '' NOT NULL,
    PRIMARY KEY (org_id)
);

CREATE TABLE person (
    person_id TEXT NOT NULL,
    org_id TEXT DEFAULT '' NOT NULL,
    name TEXT DEFAULT '' NOT NULL,
    roles TEXT DEFAULT '' NOT NULL,
    public_key TEXT DEFAULT '' NOT NULL,
    active INTEGER DEFAULT 1 NOT NULL,
    created_at TEXT DEFAULT '' NOT NULL,
    PRIMARY KEY (person_id),
    UNIQUE (org_id, name)
);

CREATE TABLE pin (
    org_id TEXT NOT NULL,
    project_id TEXT NOT NULL,
    server TEXT NOT NULL,
    name TEXT NOT NULL,
    digest TEXT NOT NULL,
    state TEXT DEFAULT '' NOT NULL,
    decided_by TEXT DEFAULT '' NOT NULL,
    decided_at TEXT DEFAULT '' NOT NULL,
    reason TEXT DEFAULT '' NOT NULL,
    changed_seq BIGINT,
    PRIMARY KEY (org_id, project_id, server, name, digest)
)
 WITHOUT ROWID;

CREATE TABLE policy_version (
    org_id TEXT NOT NULL,
    project_id TEXT NOT NULL,
    pipeline_uuid TEXT NOT NULL,
    bundle BLOB NOT NULL,
    settings BLOB NOT NULL,
    sources_digest TEXT DEFAULT '' NOT NULL,
    first_seen_at TEXT DEFAULT '' NOT NULL,
    accepted_by TEXT DEFAULT '' NOT NULL,
    accepted_at TEXT DEFAULT '' NOT NULL,
    accepted_seq BIGINT,
    PRIMARY KEY (org_id, project_id, pipeline_uuid)
)
 WITHOUT ROWID;

CREATE TABLE project (
    project_id TEXT NOT NULL,
    org_id TEXT DEFAULT '' NOT NULL,
    name TEXT DEFAULT '' NOT NULL,
    created_at TEXT DEFAULT '' NOT NULL,
    PRIMARY KEY (project_id),
    UNIQUE (org_id, name)
);

CREATE TABLE running_call (
    org_id TEXT NOT NULL,
    session_id TEXT NOT NULL,
    task_id TEXT NOT NULL,
    decided_at TEXT DEFAULT '' NOT NULL,
    PRIMARY KEY (org_id, session_id, task_id)
)
 WITHOUT ROWID;

CREATE TABLE session (
    session_id TEXT NOT NULL,
    org_id TEXT DEFAULT '' NOT NULL,
    project_id TEXT DEFAULT '' NOT NULL,
    parent TEXT DEFAULT '' NOT NULL,
    agent_uuid TEXT DEFAULT '' NOT NULL,
    pipeline_uuid TEXT DEFAULT '' NOT NULL,
    kind TEXT DEFAULT '' NOT NULL,
    name TEXT DEFAULT '' NOT NULL,
    mode TEXT DEFAULT '' NOT NULL,
    tier TEXT DEFAULT '' NOT NULL,
    status TEXT DEFAULT '' NOT NULL,
    implicit INTEGER DEFAULT 0 NOT NULL,
    traceparent TEXT DEFAULT '' NOT NULL,
    openings BIGINT DEFAULT 0 NOT NULL,
    opened_at TEXT DEFAULT '' NOT NULL,
    closed_at TEXT DEFAULT '' NOT NULL,
    opened_seq BIGINT,
    closed_seq BIGINT,
    metadata BLOB,
    PRIMARY KEY (session_id)
);

CREATE INDEX session_opened ON session (org_id, opened_at);

CREATE INDEX session_parent ON session (parent);

CREATE TABLE setting (
    org_id TEXT NOT NULL,
    "key" TEXT NOT NULL,
    value TEXT DEFAULT '' NOT NULL,
    updated_at TEXT DEFAULT '' NOT NULL,
    changed_seq BIGINT,
    PRIMARY KEY (org_id, "key")
)
 WITHOUT ROWID;

CREATE TABLE signing_key (
    key_id TEXT NOT NULL,
    org_id TEXT DEFAULT '' NOT NULL,
    purpose TEXT DEFAULT '' NOT NULL,
    public_key TEXT DEFAULT '' NOT NULL,
    created_at TEXT DEFAULT '' NOT NULL,
    retired_at TEXT DEFAULT '' NOT NULL,
    PRIMARY KEY (key_id)
);

CREATE TABLE tool_definition (
    org_id TEXT NOT NULL,
    project_id TEXT NOT NULL,
    digest TEXT NOT NULL,
    server TEXT DEFAULT '' NOT NULL,
    name TEXT DEFAULT '' NOT NULL,
    definition BLOB NOT NULL,
    first_seen_at TEXT DEFAULT '' NOT NULL,
    first_seen_seq BIGINT,
    PRIMARY KEY (org_id, project_id, digest)
)
 WITHOUT ROWID;

CREATE TABLE visit (
    digest BLOB NOT NULL,
    org_id TEXT DEFAULT '' NOT NULL,
    key_digest BLOB NOT NULL,
    started_at TEXT DEFAULT '' NOT NULL,
    seen_at TEXT DEFAULT '' NOT NULL,
    PRIMARY KEY (digest)
);

