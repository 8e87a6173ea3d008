"""One index for the timeline of a workspace; none that nobody reads by.

Every index is paid for at each append. Pages of a workspace go by position, which the index on
versions does not serve: a page of a long log had to read and sort the whole stream.
"""

from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.execute("CREATE INDEX event_log_stream_position ON event_log (stream_id, position)")
    op.execute("DROP INDEX event_log_type_position")
    op.execute("DROP INDEX event_log_recorded_at_position")


def downgrade() -> None:
    raise NotImplementedError("the log is never taken back: restore a backup into a new database")
