-- Times are microseconds since 1970 in UTC. Identifiers are exact bytes. Statements can be run again, since MySQL
-- commits each CREATE TABLE by itself.
-- +goose Up
CREATE TABLE IF NOT EXISTS declarations (
    identifier   VARBINARY(255) NOT NULL,
    type         VARBINARY(255) NOT NULL,
    class        VARBINARY(32)  NOT NULL,
    server_token VARBINARY(64)  NOT NULL,
    content_hash VARBINARY(64)  NOT NULL,
    touches      BIGINT         NOT NULL,
    created_at   BIGINT         NOT NULL,
    changed_at   BIGINT         NOT NULL,
    PRIMARY KEY (identifier)
) ENGINE = InnoDB DEFAULT CHARACTER SET = utf8mb4 COLLATE = utf8mb4_bin;

CREATE TABLE IF NOT EXISTS declaration_versions (
    identifier   VARBINARY(255) NOT NULL,
    server_token VARBINARY(64)  NOT NULL,
    type         VARBINARY(255) NOT NULL,
    class        VARBINARY(32)  NOT NULL,
    key_name     VARBINARY(64)  NOT NULL DEFAULT '',
    created_at   BIGINT         NOT NULL,
    replaced_at  BIGINT         NULL,
    collect_from BIGINT         NULL,
    payload      LONGTEXT       NOT NULL,
    PRIMARY KEY (identifier, server_token),
    KEY declaration_versions_history (identifier, replaced_at, server_token),
    KEY declaration_versions_collect (collect_from)
) ENGINE = InnoDB DEFAULT CHARACTER SET = utf8mb4 COLLATE = utf8mb4_bin;

CREATE TABLE IF NOT EXISTS declaration_references (
    identifier VARBINARY(255) NOT NULL,
    referred   VARBINARY(255) NOT NULL,
    PRIMARY KEY (identifier, referred),
    KEY declaration_references_referred (referred, identifier)
) ENGINE = InnoDB DEFAULT CHARACTER SET = utf8mb4 COLLATE = utf8mb4_bin;

CREATE TABLE IF NOT EXISTS sets (
    name       VARBINARY(255) NOT NULL,
    version    BIGINT         NOT NULL,
    changed_at BIGINT         NOT NULL,
    PRIMARY KEY (name)
) ENGINE = InnoDB DEFAULT CHARACTER SET = utf8mb4 COLLATE = utf8mb4_bin;

CREATE TABLE IF NOT EXISTS set_declarations (
    set_name   VARBINARY(255) NOT NULL,
    identifier VARBINARY(255) NOT NULL,
    PRIMARY KEY (set_name, identifier),
    KEY set_declarations_identifier (identifier, set_name)
) ENGINE = InnoDB DEFAULT CHARACTER SET = utf8mb4 COLLATE = utf8mb4_bin;

CREATE TABLE IF NOT EXISTS enrollments (
    id                      VARBINARY(255) NOT NULL,
    type                    VARBINARY(64)  NOT NULL DEFAULT '',
    parent_id               VARBINARY(255) NOT NULL DEFAULT '',
    enroll_epoch            BIGINT         NOT NULL DEFAULT 0,
    authenticated_at        BIGINT         NULL,
    enrolled_at             BIGINT         NULL,
    left_at                 BIGINT         NULL,
    token_tally             INT            NOT NULL DEFAULT 0,
    token_updated_at        BIGINT         NULL,
    webhook_at              BIGINT         NULL,
    created_at              BIGINT         NOT NULL,
    last_seen               BIGINT         NULL,
    notify_at               BIGINT         NULL,
    notify_seq              BIGINT         NOT NULL DEFAULT 0,
    force_seq               BIGINT         NOT NULL DEFAULT 0,
    force_id                BIGINT         NOT NULL DEFAULT 0,
    sent_seq                BIGINT         NOT NULL DEFAULT 0,
    priority                TINYINT        NOT NULL DEFAULT 0,
    held                    TINYINT        NOT NULL DEFAULT 0,
    attempts                INT            NOT NULL DEFAULT 0,
    last_error              TEXT           NULL,
    lease_id                BIGINT         NULL,
    lease_seq               BIGINT         NULL,
    lease_until             BIGINT         NULL,
    command_uuid            VARBINARY(64)  NULL,
    command_token           VARBINARY(255) NULL,
    command_sent_at         BIGINT         NULL,
    command_acknowledged_at BIGINT         NULL,
    command_outcome         VARBINARY(64)  NULL,
    command_error           TEXT           NULL,
    sends                   INT            NOT NULL DEFAULT 0,
    pushed_at               BIGINT         NULL,
    push_failures           INT            NOT NULL DEFAULT 0,
    desired_token           VARBINARY(255) NULL,
    asked_token             VARBINARY(255) NULL,
    asked_at                BIGINT         NULL,
    fetched_token           VARBINARY(255) NULL,
    fetched_at              BIGINT         NULL,
    synced_token            VARBINARY(255) NULL,
    synced_at               BIGINT         NULL,
    out_of_sync             TINYINT        NOT NULL DEFAULT 0,
    sync_changed_at         BIGINT         NULL,
    sync_told               TINYINT        NOT NULL DEFAULT 0,
    sync_news               TINYINT        NULL,
    PRIMARY KEY (id),
    KEY enrollments_queue (priority, notify_at),
    KEY enrollments_parent (parent_id),
    KEY enrollments_sync (out_of_sync, id),
    KEY enrollments_failing (attempts),
    KEY enrollments_unwoken (push_failures),
    KEY enrollments_sync_news (sync_news, id)
) ENGINE = InnoDB DEFAULT CHARACTER SET = utf8mb4 COLLATE = utf8mb4_bin;

CREATE TABLE IF NOT EXISTS enrollment_sets (
    enrollment_id VARBINARY(255) NOT NULL,
    set_name      VARBINARY(255) NOT NULL,
    PRIMARY KEY (enrollment_id, set_name),
    KEY enrollment_sets_set (set_name, enrollment_id)
) ENGINE = InnoDB DEFAULT CHARACTER SET = utf8mb4 COLLATE = utf8mb4_bin;

CREATE TABLE IF NOT EXISTS early_results (
    enrollment_id VARBINARY(255) NOT NULL,
    command_uuid  VARBINARY(64)  NOT NULL,
    outcome       VARBINARY(64)  NOT NULL,
    error         TEXT           NULL,
    received_at   BIGINT         NOT NULL,
    PRIMARY KEY (enrollment_id, command_uuid),
    KEY early_results_received (received_at)
) ENGINE = InnoDB DEFAULT CHARACTER SET = utf8mb4 COLLATE = utf8mb4_bin;

CREATE TABLE IF NOT EXISTS manifests (
    token     VARBINARY(255) NOT NULL,
    items     LONGTEXT       NOT NULL,
    served_at BIGINT         NOT NULL,
    PRIMARY KEY (token),
    KEY manifests_served (served_at)
) ENGINE = InnoDB DEFAULT CHARACTER SET = utf8mb4 COLLATE = utf8mb4_bin;

CREATE TABLE IF NOT EXISTS fanouts (
    set_name   VARBINARY(255) NOT NULL,
    pending    TINYINT        NOT NULL,
    position   VARBINARY(255) NOT NULL DEFAULT '',
    held       TINYINT        NOT NULL,
    force_id   BIGINT         NOT NULL,
    change_id  VARBINARY(64)  NOT NULL,
    reached    BIGINT         NOT NULL DEFAULT 0,
    run        BIGINT         NOT NULL,
    done       TINYINT        NOT NULL DEFAULT 0,
    due_at     BIGINT         NOT NULL,
    PRIMARY KEY (set_name, pending),
    KEY fanouts_due (due_at)
) ENGINE = InnoDB DEFAULT CHARACTER SET = utf8mb4 COLLATE = utf8mb4_bin;

CREATE TABLE IF NOT EXISTS serving (
    id          TINYINT NOT NULL,
    shard       TINYINT NULL,
    switched_at BIGINT  NULL,
    PRIMARY KEY (id)
) ENGINE = InnoDB DEFAULT CHARACTER SET = utf8mb4 COLLATE = utf8mb4_bin;

INSERT IGNORE INTO serving (id) VALUES (1);

CREATE TABLE IF NOT EXISTS changes (
    id            BIGINT         NOT NULL AUTO_INCREMENT,
    change_id     VARBINARY(64)  NOT NULL,
    at            BIGINT         NOT NULL,
    key_name      VARBINARY(64)  NOT NULL,
    action        VARBINARY(32)  NOT NULL,
    declaration   VARBINARY(255) NULL,
    set_name      VARBINARY(255) NULL,
    enrollment_id VARBINARY(255) NULL,
    from_token    VARBINARY(64)  NULL,
    to_token      VARBINARY(64)  NULL,
    held          TINYINT        NOT NULL,
    amount        BIGINT         NULL,
    reached       BIGINT         NULL,
    waiting       BIGINT         NOT NULL,
    of_enrollment TINYINT        NOT NULL,
    PRIMARY KEY (id),
    KEY changes_at (at, id),
    KEY changes_change (change_id, at, id),
    KEY changes_key (key_name, at, id),
    KEY changes_action (action, at, id),
    KEY changes_declaration (declaration, at, id),
    KEY changes_set (set_name, at, id),
    KEY changes_enrollment (enrollment_id, at, id),
    KEY changes_kept (of_enrollment, id)
) ENGINE = InnoDB DEFAULT CHARACTER SET = utf8mb4 COLLATE = utf8mb4_bin;

CREATE TABLE IF NOT EXISTS change_fanouts (
    set_name   VARBINARY(255) NOT NULL,
    run        BIGINT         NOT NULL,
    change_row BIGINT         NOT NULL,
    PRIMARY KEY (set_name, run, change_row)
) ENGINE = InnoDB DEFAULT CHARACTER SET = utf8mb4 COLLATE = utf8mb4_bin;

CREATE TABLE IF NOT EXISTS status_reports (
    id            BIGINT         NOT NULL AUTO_INCREMENT,
    enrollment_id VARBINARY(255) NOT NULL,
    received_at   BIGINT         NOT NULL,
    body          LONGBLOB       NOT NULL,
    PRIMARY KEY (id),
    KEY status_reports_enrollment (enrollment_id, id)
) ENGINE = InnoDB DEFAULT CHARACTER SET = utf8mb4 COLLATE = utf8mb4_bin;

CREATE TABLE IF NOT EXISTS status_declarations (
    enrollment_id VARBINARY(255) NOT NULL,
    identifier    VARBINARY(255) NOT NULL,
    server_token  VARBINARY(255) NOT NULL,
    class         VARBINARY(32)  NOT NULL,
    active        TINYINT        NOT NULL,
    valid         VARBINARY(64)  NOT NULL,
    reasons       LONGTEXT       NULL,
    report_id     BIGINT         NOT NULL,
    received_at   BIGINT         NOT NULL,
    PRIMARY KEY (enrollment_id, identifier, server_token)
) ENGINE = InnoDB DEFAULT CHARACTER SET = utf8mb4 COLLATE = utf8mb4_bin;

CREATE TABLE IF NOT EXISTS status_values (
    enrollment_id VARBINARY(255) NOT NULL,
    path_hash     BINARY(16)     NOT NULL,
    element_hash  BINARY(16)     NOT NULL,
    value_hash    BINARY(16)     NOT NULL,
    path          VARBINARY(255) NOT NULL,
    element       VARBINARY(255) NOT NULL,
    value         LONGBLOB       NOT NULL,
    report_id     BIGINT         NOT NULL,
    changed_at    BIGINT         NOT NULL,
    PRIMARY KEY (enrollment_id, path_hash, element_hash),
    KEY status_values_path (path_hash, value_hash)
) ENGINE = InnoDB DEFAULT CHARACTER SET = utf8mb4 COLLATE = utf8mb4_bin;

CREATE TABLE IF NOT EXISTS status_errors (
    id            BIGINT         NOT NULL AUTO_INCREMENT,
    enrollment_id VARBINARY(255) NOT NULL,
    path          VARBINARY(255) NOT NULL,
    error         LONGTEXT       NOT NULL,
    report_id     BIGINT         NOT NULL,
    received_at   BIGINT         NOT NULL,
    PRIMARY KEY (id),
    KEY status_errors_enrollment (enrollment_id, id)
) ENGINE = InnoDB DEFAULT CHARACTER SET = utf8mb4 COLLATE = utf8mb4_bin;

CREATE TABLE IF NOT EXISTS problems (
    kind          VARBINARY(32)  NOT NULL,
    subject       VARBINARY(255) NOT NULL,
    enrollment_id VARBINARY(255) NOT NULL,
    server_token  VARBINARY(255) NOT NULL,
    code          VARBINARY(255) NOT NULL,
    received_at   BIGINT         NOT NULL,
    PRIMARY KEY (kind, subject, enrollment_id, server_token),
    KEY problems_code (code, kind, subject, received_at),
    KEY problems_enrollment (enrollment_id)
) ENGINE = InnoDB DEFAULT CHARACTER SET = utf8mb4 COLLATE = utf8mb4_bin;

CREATE TABLE IF NOT EXISTS facts (
    enrollment_id VARBINARY(255) NOT NULL,
    serial_number VARBINARY(255) NOT NULL,
    model         VARBINARY(255) NOT NULL,
    os_family     VARBINARY(255) NOT NULL,
    os_version    VARBINARY(255) NOT NULL,
    os_order      VARBINARY(255) NOT NULL,
    os_build      VARBINARY(255) NOT NULL,
    capabilities  VARBINARY(64)  NOT NULL,
    confirmed_at  BIGINT         NULL,
    PRIMARY KEY (enrollment_id),
    KEY facts_serial_number (serial_number, enrollment_id),
    KEY facts_model (model, enrollment_id),
    KEY facts_os_family (os_family, enrollment_id),
    KEY facts_capabilities (capabilities, enrollment_id)
) ENGINE = InnoDB DEFAULT CHARACTER SET = utf8mb4 COLLATE = utf8mb4_bin;

CREATE TABLE IF NOT EXISTS capabilities (
    id   VARBINARY(64)  NOT NULL,
    name VARBINARY(255) NOT NULL,
    PRIMARY KEY (id, name),
    KEY capabilities_name (name, id)
) ENGINE = InnoDB DEFAULT CHARACTER SET = utf8mb4 COLLATE = utf8mb4_bin;

CREATE TABLE IF NOT EXISTS declaration_summaries (
    identifier   VARBINARY(255) NOT NULL,
    server_token VARBINARY(255) NOT NULL,
    assigned     BIGINT         NOT NULL,
    current      BIGINT         NOT NULL,
    active       BIGINT         NOT NULL,
    valid        BIGINT         NOT NULL,
    invalid      BIGINT         NOT NULL,
    counted_at   BIGINT         NOT NULL,
    PRIMARY KEY (identifier),
    KEY declaration_summaries_counted (counted_at)
) ENGINE = InnoDB DEFAULT CHARACTER SET = utf8mb4 COLLATE = utf8mb4_bin;

CREATE TABLE IF NOT EXISTS event_outbox (
    id            BIGINT         NOT NULL AUTO_INCREMENT,
    at            BIGINT         NOT NULL,
    kind          VARBINARY(64)  NOT NULL,
    enrollment_id VARBINARY(255) NOT NULL,
    detail        TEXT           NOT NULL,
    PRIMARY KEY (id)
) ENGINE = InnoDB DEFAULT CHARACTER SET = utf8mb4 COLLATE = utf8mb4_bin;

CREATE TABLE IF NOT EXISTS events (
    id            BIGINT         NOT NULL,
    at            BIGINT         NOT NULL,
    kind          VARBINARY(64)  NOT NULL,
    enrollment_id VARBINARY(255) NOT NULL,
    detail        TEXT           NOT NULL,
    PRIMARY KEY (id)
) ENGINE = InnoDB DEFAULT CHARACTER SET = utf8mb4 COLLATE = utf8mb4_bin;

CREATE TABLE IF NOT EXISTS event_log (
    id           TINYINT NOT NULL,
    last_id      BIGINT  NOT NULL,
    delivered_id BIGINT  NULL,
    lease_id     BIGINT  NULL,
    lease_until  BIGINT  NULL,
    PRIMARY KEY (id)
) ENGINE = InnoDB DEFAULT CHARACTER SET = utf8mb4 COLLATE = utf8mb4_bin;

INSERT IGNORE INTO event_log (id, last_id) VALUES (1, 0);

CREATE TABLE IF NOT EXISTS clock (
    id       TINYINT        NOT NULL,
    seen_at  BIGINT         NOT NULL,
    behind   BIGINT         NULL,
    tried    BIGINT         NOT NULL DEFAULT 0,
    position VARBINARY(255) NOT NULL DEFAULT '',
    PRIMARY KEY (id)
) ENGINE = InnoDB DEFAULT CHARACTER SET = utf8mb4 COLLATE = utf8mb4_bin;

INSERT IGNORE INTO clock (id, seen_at) VALUES (1, 0);
