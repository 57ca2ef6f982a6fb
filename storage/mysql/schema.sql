-- The schema after all migrations: go test ./storage/mysql -run TestSchema -update

CREATE TABLE capabilities (
    id varbinary(64) NOT NULL,
    name varbinary(255) NOT NULL,
    PRIMARY KEY (id, name),
    KEY capabilities_name (name, id)
) ENGINE InnoDB COLLATE utf8mb4_bin;

CREATE TABLE changes (
    id bigint NOT NULL AUTO_INCREMENT,
    change_id varbinary(64) NOT NULL,
    at bigint NOT NULL,
    key_name varbinary(64) NOT NULL,
    action varbinary(32) NOT NULL,
    declaration varbinary(255),
    set_name varbinary(255),
    enrollment_id varbinary(255),
    from_token varbinary(64),
    to_token varbinary(64),
    held tinyint NOT NULL,
    amount bigint,
    reached bigint,
    waiting bigint NOT NULL,
    of_enrollment tinyint NOT NULL,
    PRIMARY KEY (id),
    KEY changes_action (action, at, id),
    KEY changes_at (at, id),
    KEY changes_change (change_id, at, id),
    KEY changes_declaration (declaration, at, id),
    KEY changes_enrollment (enrollment_id, at, id),
    KEY changes_kept (of_enrollment, id),
    KEY changes_key (key_name, at, id),
    KEY changes_set (set_name, at, id)
) ENGINE InnoDB COLLATE utf8mb4_bin;

CREATE TABLE change_fanouts (
    set_name varbinary(255) NOT NULL,
    run bigint NOT NULL,
    change_row bigint NOT NULL,
    PRIMARY KEY (set_name, run, change_row)
) ENGINE InnoDB COLLATE utf8mb4_bin;

CREATE TABLE clock (
    id tinyint NOT NULL,
    seen_at bigint NOT NULL,
    behind bigint,
    tried bigint NOT NULL DEFAULT 0,
    position varbinary(255) NOT NULL DEFAULT '',
    PRIMARY KEY (id)
) ENGINE InnoDB COLLATE utf8mb4_bin;

CREATE TABLE declarations (
    identifier varbinary(255) NOT NULL,
    type varbinary(255) NOT NULL,
    class varbinary(32) NOT NULL,
    server_token varbinary(64) NOT NULL,
    content_hash varbinary(64) NOT NULL,
    touches bigint NOT NULL,
    created_at bigint NOT NULL,
    changed_at bigint NOT NULL,
    PRIMARY KEY (identifier)
) ENGINE InnoDB COLLATE utf8mb4_bin;

CREATE TABLE declaration_references (
    identifier varbinary(255) NOT NULL,
    referred varbinary(255) NOT NULL,
    PRIMARY KEY (identifier, referred),
    KEY declaration_references_referred (referred, identifier)
) ENGINE InnoDB COLLATE utf8mb4_bin;

CREATE TABLE declaration_summaries (
    identifier varbinary(255) NOT NULL,
    server_token varbinary(255) NOT NULL,
    assigned bigint NOT NULL,
    current bigint NOT NULL,
    active bigint NOT NULL,
    valid bigint NOT NULL,
    invalid bigint NOT NULL,
    counted_at bigint NOT NULL,
    PRIMARY KEY (identifier),
    KEY declaration_summaries_counted (counted_at)
) ENGINE InnoDB COLLATE utf8mb4_bin;

CREATE TABLE declaration_versions (
    identifier varbinary(255) NOT NULL,
    server_token varbinary(64) NOT NULL,
    type varbinary(255) NOT NULL,
    class varbinary(32) NOT NULL,
    key_name varbinary(64) NOT NULL DEFAULT '',
    created_at bigint NOT NULL,
    replaced_at bigint,
    collect_from bigint,
    payload longtext COLLATE utf8mb4_bin NOT NULL,
    PRIMARY KEY (identifier, server_token),
    KEY declaration_versions_collect (collect_from),
    KEY declaration_versions_history (identifier, replaced_at, server_token)
) ENGINE InnoDB COLLATE utf8mb4_bin;

CREATE TABLE early_results (
    enrollment_id varbinary(255) NOT NULL,
    command_uuid varbinary(64) NOT NULL,
    outcome varbinary(64) NOT NULL,
    error text COLLATE utf8mb4_bin,
    received_at bigint NOT NULL,
    PRIMARY KEY (enrollment_id, command_uuid),
    KEY early_results_received (received_at)
) ENGINE InnoDB COLLATE utf8mb4_bin;

CREATE TABLE enrollments (
    id varbinary(255) NOT NULL,
    type varbinary(64) NOT NULL DEFAULT '',
    parent_id varbinary(255) NOT NULL DEFAULT '',
    enroll_epoch bigint NOT NULL DEFAULT 0,
    authenticated_at bigint,
    enrolled_at bigint,
    left_at bigint,
    token_tally int NOT NULL DEFAULT 0,
    token_updated_at bigint,
    webhook_at bigint,
    created_at bigint NOT NULL,
    last_seen bigint,
    notify_at bigint,
    notify_seq bigint NOT NULL DEFAULT 0,
    force_seq bigint NOT NULL DEFAULT 0,
    force_id bigint NOT NULL DEFAULT 0,
    sent_seq bigint NOT NULL DEFAULT 0,
    priority tinyint NOT NULL DEFAULT 0,
    held tinyint NOT NULL DEFAULT 0,
    attempts int NOT NULL DEFAULT 0,
    last_error text COLLATE utf8mb4_bin,
    lease_id bigint,
    lease_seq bigint,
    lease_until bigint,
    command_uuid varbinary(64),
    command_token varbinary(255),
    command_sent_at bigint,
    command_acknowledged_at bigint,
    command_outcome varbinary(64),
    command_error text COLLATE utf8mb4_bin,
    sends int NOT NULL DEFAULT 0,
    pushed_at bigint,
    push_failures int NOT NULL DEFAULT 0,
    desired_token varbinary(255),
    asked_token varbinary(255),
    asked_at bigint,
    fetched_token varbinary(255),
    fetched_at bigint,
    synced_token varbinary(255),
    synced_at bigint,
    out_of_sync tinyint NOT NULL DEFAULT 0,
    sync_changed_at bigint,
    sync_told tinyint NOT NULL DEFAULT 0,
    sync_news tinyint,
    PRIMARY KEY (id),
    KEY enrollments_failing (attempts),
    KEY enrollments_parent (parent_id),
    KEY enrollments_queue (priority, notify_at),
    KEY enrollments_sync (out_of_sync, id),
    KEY enrollments_sync_news (sync_news, id),
    KEY enrollments_unwoken (push_failures)
) ENGINE InnoDB COLLATE utf8mb4_bin;

CREATE TABLE enrollment_sets (
    enrollment_id varbinary(255) NOT NULL,
    set_name varbinary(255) NOT NULL,
    PRIMARY KEY (enrollment_id, set_name),
    KEY enrollment_sets_set (set_name, enrollment_id)
) ENGINE InnoDB COLLATE utf8mb4_bin;

CREATE TABLE events (
    id bigint NOT NULL,
    at bigint NOT NULL,
    kind varbinary(64) NOT NULL,
    enrollment_id varbinary(255) NOT NULL,
    detail text COLLATE utf8mb4_bin NOT NULL,
    PRIMARY KEY (id)
) ENGINE InnoDB COLLATE utf8mb4_bin;

CREATE TABLE event_log (
    id tinyint NOT NULL,
    last_id bigint NOT NULL,
    delivered_id bigint,
    lease_id bigint,
    lease_until bigint,
    PRIMARY KEY (id)
) ENGINE InnoDB COLLATE utf8mb4_bin;

CREATE TABLE event_outbox (
    id bigint NOT NULL AUTO_INCREMENT,
    at bigint NOT NULL,
    kind varbinary(64) NOT NULL,
    enrollment_id varbinary(255) NOT NULL,
    detail text COLLATE utf8mb4_bin NOT NULL,
    PRIMARY KEY (id)
) ENGINE InnoDB COLLATE utf8mb4_bin;

CREATE TABLE facts (
    enrollment_id varbinary(255) NOT NULL,
    serial_number varbinary(255) NOT NULL,
    model varbinary(255) NOT NULL,
    os_family varbinary(255) NOT NULL,
    os_version varbinary(255) NOT NULL,
    os_order varbinary(255) NOT NULL,
    os_build varbinary(255) NOT NULL,
    capabilities varbinary(64) NOT NULL,
    confirmed_at bigint,
    PRIMARY KEY (enrollment_id),
    KEY facts_capabilities (capabilities, enrollment_id),
    KEY facts_model (model, enrollment_id),
    KEY facts_os_family (os_family, enrollment_id),
    KEY facts_serial_number (serial_number, enrollment_id)
) ENGINE InnoDB COLLATE utf8mb4_bin;

CREATE TABLE fanouts (
    set_name varbinary(255) NOT NULL,
    pending tinyint NOT NULL,
    position varbinary(255) NOT NULL DEFAULT '',
    held tinyint NOT NULL,
    force_id bigint NOT NULL,
    change_id varbinary(64) NOT NULL,
    reached bigint NOT NULL DEFAULT 0,
    run bigint NOT NULL,
    done tinyint NOT NULL DEFAULT 0,
    due_at bigint NOT NULL,
    PRIMARY KEY (set_name, pending),
    KEY fanouts_due (due_at)
) ENGINE InnoDB COLLATE utf8mb4_bin;

CREATE TABLE manifests (
    token varbinary(255) NOT NULL,
    items longtext COLLATE utf8mb4_bin NOT NULL,
    served_at bigint NOT NULL,
    PRIMARY KEY (token),
    KEY manifests_served (served_at)
) ENGINE InnoDB COLLATE utf8mb4_bin;

CREATE TABLE problems (
    kind varbinary(32) NOT NULL,
    subject varbinary(255) NOT NULL,
    enrollment_id varbinary(255) NOT NULL,
    server_token varbinary(255) NOT NULL,
    code varbinary(255) NOT NULL,
    received_at bigint NOT NULL,
    PRIMARY KEY (kind, subject, enrollment_id, server_token),
    KEY problems_code (code, kind, subject, received_at),
    KEY problems_enrollment (enrollment_id)
) ENGINE InnoDB COLLATE utf8mb4_bin;

CREATE TABLE serving (
    id tinyint NOT NULL,
    shard tinyint,
    switched_at bigint,
    PRIMARY KEY (id)
) ENGINE InnoDB COLLATE utf8mb4_bin;

CREATE TABLE sets (
    name varbinary(255) NOT NULL,
    version bigint NOT NULL,
    changed_at bigint NOT NULL,
    PRIMARY KEY (name)
) ENGINE InnoDB COLLATE utf8mb4_bin;

CREATE TABLE set_declarations (
    set_name varbinary(255) NOT NULL,
    identifier varbinary(255) NOT NULL,
    PRIMARY KEY (set_name, identifier),
    KEY set_declarations_identifier (identifier, set_name)
) ENGINE InnoDB COLLATE utf8mb4_bin;

CREATE TABLE status_declarations (
    enrollment_id varbinary(255) NOT NULL,
    identifier varbinary(255) NOT NULL,
    server_token varbinary(255) NOT NULL,
    class varbinary(32) NOT NULL,
    active tinyint NOT NULL,
    valid varbinary(64) NOT NULL,
    reasons longtext COLLATE utf8mb4_bin,
    report_id bigint NOT NULL,
    received_at bigint NOT NULL,
    PRIMARY KEY (enrollment_id, identifier, server_token)
) ENGINE InnoDB COLLATE utf8mb4_bin;

CREATE TABLE status_errors (
    id bigint NOT NULL AUTO_INCREMENT,
    enrollment_id varbinary(255) NOT NULL,
    path varbinary(255) NOT NULL,
    error longtext COLLATE utf8mb4_bin NOT NULL,
    report_id bigint NOT NULL,
    received_at bigint NOT NULL,
    PRIMARY KEY (id),
    KEY status_errors_enrollment (enrollment_id, id)
) ENGINE InnoDB COLLATE utf8mb4_bin;

CREATE TABLE status_reports (
    id bigint NOT NULL AUTO_INCREMENT,
    enrollment_id varbinary(255) NOT NULL,
    received_at bigint NOT NULL,
    body longblob NOT NULL,
    PRIMARY KEY (id),
    KEY status_reports_enrollment (enrollment_id, id)
) ENGINE InnoDB COLLATE utf8mb4_bin;

CREATE TABLE status_values (
    enrollment_id varbinary(255) NOT NULL,
    path_hash binary(16) NOT NULL,
    element_hash binary(16) NOT NULL,
    value_hash binary(16) NOT NULL,
    path varbinary(255) NOT NULL,
    element varbinary(255) NOT NULL,
    value longblob NOT NULL,
    report_id bigint NOT NULL,
    changed_at bigint NOT NULL,
    PRIMARY KEY (enrollment_id, path_hash, element_hash),
    KEY status_values_path (path_hash, value_hash)
) ENGINE InnoDB COLLATE utf8mb4_bin;
