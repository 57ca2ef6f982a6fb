-- The schema after all migrations: go test ./storage/sqlite -run TestSchema -update

CREATE TABLE capabilities (
    id                      TEXT    NOT NULL,
    name                    TEXT    NOT NULL,
    PRIMARY KEY (id, name)
) WITHOUT ROWID;
CREATE INDEX capabilities_name ON capabilities (name, id);
CREATE TABLE change_fanouts (
    set_name                TEXT    NOT NULL,
    run                     INTEGER NOT NULL,
    change_row              INTEGER NOT NULL,
    PRIMARY KEY (set_name, run, change_row)
) WITHOUT ROWID;
CREATE TABLE changes (
    id                      INTEGER PRIMARY KEY,
    change_id               TEXT    NOT NULL,
    at                      INTEGER NOT NULL,
    key_name                TEXT    NOT NULL,
    action                  TEXT    NOT NULL,
    declaration             TEXT    NULL,
    set_name                TEXT    NULL,
    enrollment_id           TEXT    NULL,
    from_token              TEXT    NULL,
    to_token                TEXT    NULL,
    held                    INTEGER NOT NULL,
    amount                  INTEGER NULL,
    reached                 INTEGER NULL,
    waiting                 INTEGER NOT NULL,
    of_enrollment           INTEGER NOT NULL
);
CREATE INDEX changes_action ON changes (action, at);
CREATE INDEX changes_at ON changes (at);
CREATE INDEX changes_change ON changes (change_id, at);
CREATE INDEX changes_declaration ON changes (declaration, at) WHERE declaration IS NOT NULL;
CREATE INDEX changes_enrollment ON changes (enrollment_id, at) WHERE enrollment_id IS NOT NULL;
CREATE INDEX changes_kept ON changes (of_enrollment);
CREATE INDEX changes_key ON changes (key_name, at);
CREATE INDEX changes_set ON changes (set_name, at) WHERE set_name IS NOT NULL;
CREATE TABLE clock (
    id                      INTEGER PRIMARY KEY,
    seen_at                 INTEGER NOT NULL,
    behind                  INTEGER NULL,
    tried                   INTEGER NOT NULL DEFAULT 0,
    position                TEXT    NOT NULL DEFAULT ''
);
CREATE TABLE declaration_references (
    identifier              TEXT    NOT NULL,
    referred                TEXT    NOT NULL,
    PRIMARY KEY (identifier, referred)
) WITHOUT ROWID;
CREATE INDEX declaration_references_referred ON declaration_references (referred, identifier);
CREATE TABLE declaration_summaries (
    identifier              TEXT    NOT NULL,
    server_token            TEXT    NOT NULL,
    assigned                INTEGER NOT NULL,
    current                 INTEGER NOT NULL,
    active                  INTEGER NOT NULL,
    valid                   INTEGER NOT NULL,
    invalid                 INTEGER NOT NULL,
    counted_at              INTEGER NOT NULL,
    PRIMARY KEY (identifier)
) WITHOUT ROWID;
CREATE INDEX declaration_summaries_counted ON declaration_summaries (counted_at);
CREATE TABLE declaration_versions (
    identifier              TEXT    NOT NULL,
    server_token            TEXT    NOT NULL,
    type                    TEXT    NOT NULL,
    class                   TEXT    NOT NULL,
    key_name                TEXT    NOT NULL DEFAULT '',
    created_at              INTEGER NOT NULL,
    replaced_at             INTEGER NULL,
    collect_from            INTEGER NULL,
    payload                 TEXT    NOT NULL,
    PRIMARY KEY (identifier, server_token)
);
CREATE INDEX declaration_versions_collect ON declaration_versions (collect_from) WHERE collect_from IS NOT NULL;
CREATE INDEX declaration_versions_history ON declaration_versions (identifier, replaced_at, server_token);
CREATE TABLE declarations (
    identifier              TEXT    NOT NULL,
    type                    TEXT    NOT NULL,
    class                   TEXT    NOT NULL,
    server_token            TEXT    NOT NULL,
    content_hash            TEXT    NOT NULL,
    touches                 INTEGER NOT NULL,
    created_at              INTEGER NOT NULL,
    changed_at              INTEGER NOT NULL,
    PRIMARY KEY (identifier)
) WITHOUT ROWID;
CREATE TABLE early_results (
    enrollment_id           TEXT    NOT NULL,
    command_uuid            TEXT    NOT NULL,
    outcome                 TEXT    NOT NULL,
    error                   TEXT    NULL,
    received_at             INTEGER NOT NULL,
    PRIMARY KEY (enrollment_id, command_uuid)
) WITHOUT ROWID;
CREATE INDEX early_results_received ON early_results (received_at);
CREATE TABLE enrollment_sets (
    enrollment_id           TEXT    NOT NULL,
    set_name                TEXT    NOT NULL,
    PRIMARY KEY (enrollment_id, set_name)
) WITHOUT ROWID;
CREATE INDEX enrollment_sets_set ON enrollment_sets (set_name, enrollment_id);
CREATE TABLE enrollments (
    id                      TEXT    NOT NULL,
    type                    TEXT    NOT NULL DEFAULT '',
    parent_id               TEXT    NOT NULL DEFAULT '',
    enroll_epoch            INTEGER NOT NULL DEFAULT 0,
    authenticated_at        INTEGER NULL,
    enrolled_at             INTEGER NULL,
    left_at                 INTEGER NULL,
    token_tally             INTEGER NOT NULL DEFAULT 0,
    token_updated_at        INTEGER NULL,
    webhook_at              INTEGER NULL,
    created_at              INTEGER NOT NULL,
    last_seen               INTEGER NULL,
    notify_at               INTEGER NULL,
    notify_seq              INTEGER NOT NULL DEFAULT 0,
    force_seq               INTEGER NOT NULL DEFAULT 0,
    force_id                INTEGER NOT NULL DEFAULT 0,
    sent_seq                INTEGER NOT NULL DEFAULT 0,
    priority                INTEGER NOT NULL DEFAULT 0,
    held                    INTEGER NOT NULL DEFAULT 0,
    attempts                INTEGER NOT NULL DEFAULT 0,
    last_error              TEXT    NULL,
    lease_id                INTEGER NULL,
    lease_seq               INTEGER NULL,
    lease_until             INTEGER NULL,
    command_uuid            TEXT    NULL,
    command_token           TEXT    NULL,
    command_sent_at         INTEGER NULL,
    command_acknowledged_at INTEGER NULL,
    command_outcome         TEXT    NULL,
    command_error           TEXT    NULL,
    sends                   INTEGER NOT NULL DEFAULT 0,
    pushed_at               INTEGER NULL,
    push_failures           INTEGER NOT NULL DEFAULT 0,
    desired_token           TEXT    NULL,
    asked_token             TEXT    NULL,
    asked_at                INTEGER NULL,
    fetched_token           TEXT    NULL,
    fetched_at              INTEGER NULL,
    synced_token            TEXT    NULL,
    synced_at               INTEGER NULL,
    out_of_sync             INTEGER NOT NULL DEFAULT 0,
    sync_changed_at         INTEGER NULL,
    sync_told               INTEGER NOT NULL DEFAULT 0,
    sync_news               INTEGER NULL,
    PRIMARY KEY (id)
) WITHOUT ROWID;
CREATE INDEX enrollments_failing ON enrollments (attempts) WHERE attempts > 0;
CREATE INDEX enrollments_parent ON enrollments (parent_id);
CREATE INDEX enrollments_queue ON enrollments (priority, notify_at) WHERE notify_at IS NOT NULL;
CREATE INDEX enrollments_sync ON enrollments (out_of_sync, id);
CREATE INDEX enrollments_sync_news ON enrollments (sync_news, id) WHERE sync_news IS NOT NULL;
CREATE INDEX enrollments_unwoken ON enrollments (push_failures) WHERE push_failures > 0;
CREATE TABLE event_log (
    id                      INTEGER PRIMARY KEY,
    last_id                 INTEGER NOT NULL,
    delivered_id            INTEGER NULL,
    lease_id                INTEGER NULL,
    lease_until             INTEGER NULL
);
CREATE TABLE event_outbox (
    id                      INTEGER PRIMARY KEY AUTOINCREMENT,
    at                      INTEGER NOT NULL,
    kind                    TEXT    NOT NULL,
    enrollment_id           TEXT    NOT NULL,
    detail                  TEXT    NOT NULL
);
CREATE TABLE events (
    id                      INTEGER PRIMARY KEY,
    at                      INTEGER NOT NULL,
    kind                    TEXT    NOT NULL,
    enrollment_id           TEXT    NOT NULL,
    detail                  TEXT    NOT NULL
);
CREATE TABLE facts (
    enrollment_id           TEXT    NOT NULL,
    serial_number           TEXT    NOT NULL,
    model                   TEXT    NOT NULL,
    os_family               TEXT    NOT NULL,
    os_version              TEXT    NOT NULL,
    os_order                TEXT    NOT NULL,
    os_build                TEXT    NOT NULL,
    capabilities            TEXT    NOT NULL,
    confirmed_at            INTEGER NULL,
    PRIMARY KEY (enrollment_id)
) WITHOUT ROWID;
CREATE INDEX facts_capabilities ON facts (capabilities, enrollment_id);
CREATE INDEX facts_model ON facts (model, enrollment_id);
CREATE INDEX facts_os_family ON facts (os_family, enrollment_id);
CREATE INDEX facts_serial_number ON facts (serial_number, enrollment_id);
CREATE TABLE fanouts (
    set_name                TEXT    NOT NULL,
    pending                 INTEGER NOT NULL,
    position                TEXT    NOT NULL DEFAULT '',
    held                    INTEGER NOT NULL,
    force_id                INTEGER NOT NULL,
    change_id               TEXT    NOT NULL,
    reached                 INTEGER NOT NULL DEFAULT 0,
    run                     INTEGER NOT NULL,
    done                    INTEGER NOT NULL DEFAULT 0,
    due_at                  INTEGER NOT NULL,
    PRIMARY KEY (set_name, pending)
) WITHOUT ROWID;
CREATE INDEX fanouts_due ON fanouts (due_at);
CREATE TABLE manifests (
    token                   TEXT    NOT NULL,
    items                   TEXT    NOT NULL,
    served_at               INTEGER NOT NULL,
    PRIMARY KEY (token)
);
CREATE INDEX manifests_served ON manifests (served_at);
CREATE TABLE problems (
    kind                    TEXT    NOT NULL,
    subject                 TEXT    NOT NULL,
    enrollment_id           TEXT    NOT NULL,
    server_token            TEXT    NOT NULL,
    code                    TEXT    NOT NULL,
    received_at             INTEGER NOT NULL,
    PRIMARY KEY (kind, subject, enrollment_id, server_token)
) WITHOUT ROWID;
CREATE INDEX problems_code ON problems (code, kind, subject, received_at);
CREATE INDEX problems_enrollment ON problems (enrollment_id);
CREATE TABLE serving (
    id                      INTEGER NOT NULL,
    shard                   INTEGER NULL,
    switched_at             INTEGER NULL,
    PRIMARY KEY (id)
);
CREATE TABLE set_declarations (
    set_name                TEXT    NOT NULL,
    identifier              TEXT    NOT NULL,
    PRIMARY KEY (set_name, identifier)
) WITHOUT ROWID;
CREATE INDEX set_declarations_identifier ON set_declarations (identifier, set_name);
CREATE TABLE sets (
    name                    TEXT    NOT NULL,
    version                 INTEGER NOT NULL,
    changed_at              INTEGER NOT NULL,
    PRIMARY KEY (name)
) WITHOUT ROWID;
CREATE TABLE status_declarations (
    enrollment_id           TEXT    NOT NULL,
    identifier              TEXT    NOT NULL,
    server_token            TEXT    NOT NULL,
    class                   TEXT    NOT NULL,
    active                  INTEGER NOT NULL,
    valid                   TEXT    NOT NULL,
    reasons                 TEXT    NULL,
    report_id               INTEGER NOT NULL,
    received_at             INTEGER NOT NULL,
    PRIMARY KEY (enrollment_id, identifier, server_token)
) WITHOUT ROWID;
CREATE TABLE status_errors (
    id                      INTEGER PRIMARY KEY AUTOINCREMENT,
    enrollment_id           TEXT    NOT NULL,
    path                    TEXT    NOT NULL,
    error                   TEXT    NOT NULL,
    report_id               INTEGER NOT NULL,
    received_at             INTEGER NOT NULL
);
CREATE INDEX status_errors_enrollment ON status_errors (enrollment_id, id);
CREATE TABLE status_reports (
    id                      INTEGER PRIMARY KEY AUTOINCREMENT,
    enrollment_id           TEXT    NOT NULL,
    received_at             INTEGER NOT NULL,
    body                    BLOB    NOT NULL
);
CREATE INDEX status_reports_enrollment ON status_reports (enrollment_id, id);
CREATE TABLE status_values (
    enrollment_id           TEXT    NOT NULL,
    path_hash               BLOB    NOT NULL,
    element_hash            BLOB    NOT NULL,
    value_hash              BLOB    NOT NULL,
    path                    TEXT    NOT NULL,
    element                 TEXT    NOT NULL,
    value                   BLOB    NOT NULL,
    report_id               INTEGER NOT NULL,
    changed_at              INTEGER NOT NULL,
    PRIMARY KEY (enrollment_id, path_hash, element_hash)
);
CREATE INDEX status_values_path ON status_values (path_hash, value_hash);
