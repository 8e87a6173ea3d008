"""The log, the writer's lease and the relay's cursor, and what each role may do with them."""

from alembic import op

revision = "0001"
down_revision = None

_TABLES = """
CREATE TABLE event_log (
    position bigint PRIMARY KEY CHECK (position > 0),
    stream_id text NOT NULL,
    version int NOT NULL CHECK (version > 0),
    event_id uuid NOT NULL UNIQUE,
    type text NOT NULL,
    schema_version smallint NOT NULL CHECK (schema_version > 0),
    data jsonb NOT NULL,
    metadata jsonb NOT NULL,
    occurred_at timestamptz NOT NULL,
    recorded_at timestamptz NOT NULL,
    prev_hash bytea NOT NULL CHECK (length(prev_hash) = 32),
    hash bytea NOT NULL CHECK (length(hash) = 32),
    UNIQUE (stream_id, version)
);

CREATE INDEX event_log_type_position ON event_log (type, position);

CREATE INDEX event_log_recorded_at_position ON event_log (recorded_at, position);

CREATE TABLE writer_lease (
    id smallint PRIMARY KEY CHECK (id = 1),
    term bigint NOT NULL,
    holder text NOT NULL,
    expires_at timestamptz NOT NULL,
    head bigint NOT NULL
);

INSERT INTO writer_lease VALUES (1, 0, '', '-infinity', 0);

CREATE TABLE relay_cursor (
    id smallint PRIMARY KEY CHECK (id = 1),
    position bigint NOT NULL
);

INSERT INTO relay_cursor VALUES (1, 0);
"""

_APPEND_ONLY = """
CREATE FUNCTION event_log_is_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the event log is append-only: % is refused', TG_OP
        USING ERRCODE = 'insufficient_privilege';
END
$$;

CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON event_log
    FOR EACH STATEMENT EXECUTE FUNCTION event_log_is_append_only();

ALTER TABLE event_log ENABLE ALWAYS TRIGGER append_only;
"""

_GRANTS = """
REVOKE ALL ON SCHEMA public FROM PUBLIC;

GRANT USAGE ON SCHEMA public TO dumont_recovery, dumont_api, dumont_reader;

REVOKE UPDATE, DELETE, TRUNCATE, TRIGGER ON event_log FROM dumont_owner;

GRANT SELECT ON event_log, writer_lease, relay_cursor TO dumont_api, dumont_reader;

GRANT SELECT, INSERT ON event_log TO dumont_recovery;

GRANT SELECT, UPDATE ON writer_lease, relay_cursor TO dumont_recovery;
"""


def upgrade() -> None:
    for script in (_TABLES, _APPEND_ONLY, _GRANTS):
        for statement in script.split(";\n\n"):
            op.execute(statement)


def downgrade() -> None:
    raise NotImplementedError("the log is never taken back: restore a backup into a new database")
