"""Bringing a database's schema up to date, and saying whether it is."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import ProgrammingError

from config.settings import ConfigurationError

FORBIDDEN = "42501"
"""PostgreSQL's code for what a user has no right to."""
LOCK = "SELECT pg_advisory_xact_lock(hashtext('creditmill.migrate'))"


def migrate(engine: Engine) -> list[str]:
    """Apply the missing migrations in one transaction; returns their names. A concurrent run waits and applies none.

    Raises ConfigurationError when the database's user has not the rights that a migration needs.
    """
    with engine.begin() as connection:
        connection.execute(text(LOCK))
        before = _pending(connection)
        if before:
            _upgrade(connection)
    return before


def _upgrade(connection: Connection) -> None:
    try:
        command.upgrade(_config(connection), "head")
    except ProgrammingError as error:
        if getattr(error.orig, "pgcode", None) != FORBIDDEN:
            raise
        raise ConfigurationError(f"Nothing was migrated, as the database says: {str(error.orig).strip()}.") from None


def pending(engine: Engine) -> list[str]:
    """The migrations that this database still lacks, oldest first."""
    with engine.connect() as connection:
        return _pending(connection)


def _pending(connection: Connection) -> list[str]:
    script = ScriptDirectory.from_config(_config(connection))
    current = MigrationContext.configure(connection).get_current_revision()
    missing = list(script.iterate_revisions("head", current or "base"))
    return [revision.revision for revision in reversed(missing)]


def _config(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    return config
