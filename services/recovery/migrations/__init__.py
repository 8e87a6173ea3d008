"""The schema of the log, version by version. There is no alembic.ini: this is all there is."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, text

_LOCK = 0x64756D6F6E74
"""Of the advisory lock that lets one set-up migrate at a time ("dumont")."""


def upgrade(connection: Connection) -> None:
    """Bring the database to the newest version, in one transaction; nothing to do is fine.

    ``connection`` is that of the owner, inside a transaction that the caller commits.
    """
    connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
