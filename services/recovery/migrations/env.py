"""What Alembic runs: the versions, over the connection that ``upgrade`` was given."""

from alembic import context

from shared.eventlog.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    transactional_ddl=True,
)
context.run_migrations()
