//! Every table, in the order in which files learnt of them. A released migration is never edited: the next one is added.
//!
//! The tenant is the first column of every key. Times are nanoseconds since 1970 UTC, spans of time nanoseconds, ids text.

/// States of a task. An open one is below [`SUCCEEDED`].
pub(super) const READY: i64 = 0;
pub(super) const LEASED: i64 = 1;
pub(super) const SUCCEEDED: i64 = 2;
pub(super) const DEAD: i64 = 3;
pub(super) const CANCELLED: i64 = 4;

/// Tables that hold a tenant's rows, in the order in which they are exported and purged; `outbox` and `tenants` apart.
pub(super) const TABLES: [&str; 7] = ["tasks", "runs", "steps", "events", "approvals", "key_values", "schedules"];

pub(super) const V1: &str = r"
-- a tenant's turn: virtual time of its next task, and a lower bound of when it may have one that is due
CREATE TABLE tenants (
    tenant TEXT NOT NULL PRIMARY KEY,
    vtime INTEGER NOT NULL DEFAULT 0,
    next_due INTEGER NOT NULL DEFAULT 9223372036854775807,
    kv_version INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;
-- idle tenants are not in it, so they cost a lease nothing
CREATE INDEX tenants_turn ON tenants (vtime, tenant, next_due) WHERE next_due < 9223372036854775807;

-- virtual time of the queue: that of the task served last
CREATE TABLE turn (one INTEGER NOT NULL PRIMARY KEY CHECK (one = 1), vtime INTEGER NOT NULL) STRICT;
INSERT INTO turn VALUES (1, 0);

-- due: when it may be taken; of a leased task, when its lease runs out
CREATE TABLE tasks (
    tenant TEXT NOT NULL,
    id TEXT NOT NULL,
    name TEXT NOT NULL,
    state INTEGER NOT NULL,
    due INTEGER NOT NULL,
    expires INTEGER NOT NULL,
    lifetime INTEGER NOT NULL,
    attempt INTEGER NOT NULL DEFAULT 0,
    max_retries INTEGER NOT NULL,
    fence INTEGER NOT NULL DEFAULT 0,
    unique_key TEXT,
    payload TEXT NOT NULL,
    context TEXT NOT NULL,
    outcome BLOB,
    reason TEXT,
    created INTEGER NOT NULL,
    updated INTEGER NOT NULL,
    PRIMARY KEY (tenant, id)
) STRICT;
CREATE INDEX tasks_due ON tasks (tenant, name, due) WHERE state IN (0, 1);
CREATE INDEX tasks_next ON tasks (tenant, due) WHERE state IN (0, 1);
CREATE INDEX tasks_expiry ON tasks (tenant, expires) WHERE state = 0;
CREATE INDEX tasks_dead ON tasks (tenant, updated) WHERE state = 3;
CREATE INDEX tasks_ended ON tasks (tenant, updated) WHERE state IN (2, 4);
CREATE UNIQUE INDEX tasks_unique ON tasks (tenant, unique_key) WHERE unique_key IS NOT NULL AND state IN (0, 1);

CREATE TABLE runs (
    tenant TEXT NOT NULL,
    id TEXT NOT NULL,
    workflow TEXT NOT NULL,
    version INTEGER NOT NULL,
    definition TEXT NOT NULL,
    context TEXT NOT NULL,
    input BLOB NOT NULL,
    created INTEGER NOT NULL,
    state TEXT NOT NULL DEFAULT 'running',
    error TEXT,
    cancel_requested INTEGER NOT NULL DEFAULT 0,
    running INTEGER NOT NULL DEFAULT 0,
    updated INTEGER NOT NULL,
    fence INTEGER NOT NULL DEFAULT 0,
    owner TEXT,
    held_until INTEGER,
    PRIMARY KEY (tenant, id)
) STRICT;
CREATE INDEX runs_newest ON runs (tenant, created);
CREATE INDEX runs_open ON runs (created) WHERE state IN ('running', 'parked');

CREATE TABLE steps (
    tenant TEXT NOT NULL,
    run TEXT NOT NULL,
    path TEXT NOT NULL,
    ordinal INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    state TEXT NOT NULL,
    completed INTEGER NOT NULL DEFAULT 0,
    intent TEXT,
    output BLOB,
    started INTEGER NOT NULL,
    updated INTEGER NOT NULL,
    PRIMARY KEY (tenant, run, path)
) STRICT;
CREATE TRIGGER steps_completed_once BEFORE UPDATE ON steps WHEN OLD.completed = 1
BEGIN SELECT RAISE(ABORT, 'a completed step does not change'); END;

CREATE TABLE events (
    tenant TEXT NOT NULL,
    run TEXT NOT NULL,
    seq INTEGER NOT NULL,
    at INTEGER NOT NULL,
    path TEXT NOT NULL,
    what TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    error TEXT,
    PRIMARY KEY (tenant, run, seq)
) STRICT, WITHOUT ROWID;

-- an id is never given twice, so that a late word of payment cannot hit another row
CREATE TABLE outbox (
    id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    tenant TEXT NOT NULL,
    run TEXT NOT NULL,
    body TEXT NOT NULL
) STRICT;

CREATE TABLE approvals (
    tenant TEXT NOT NULL,
    id TEXT NOT NULL,
    operation TEXT NOT NULL,
    resource TEXT NOT NULL,
    digest TEXT NOT NULL,
    asker TEXT NOT NULL,
    approver_roles TEXT NOT NULL,
    asked INTEGER NOT NULL,
    state TEXT NOT NULL,
    decider TEXT,
    decided INTEGER,
    PRIMARY KEY (tenant, id)
) STRICT;
CREATE INDEX approvals_pending ON approvals (tenant, asked, id) WHERE state = 'pending';

CREATE TABLE key_values (
    tenant TEXT NOT NULL,
    owner TEXT NOT NULL,
    memory_type TEXT NOT NULL,
    key TEXT NOT NULL,
    value BLOB NOT NULL,
    version INTEGER NOT NULL,
    until INTEGER,
    PRIMARY KEY (tenant, owner, memory_type, key)
) STRICT;
CREATE INDEX key_values_until ON key_values (tenant, until) WHERE until IS NOT NULL;

-- due: when it is looked at; of one that a host has in hand, when another may
CREATE TABLE schedules (
    tenant TEXT NOT NULL,
    name TEXT NOT NULL,
    version TEXT NOT NULL,
    due INTEGER,
    record TEXT NOT NULL,
    PRIMARY KEY (tenant, name)
) STRICT;
CREATE INDEX schedules_due ON schedules (due) WHERE due IS NOT NULL;
";
