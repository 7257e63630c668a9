"""Reading for one account alone: PostgreSQL itself hides every row of the others, whatever a query asks for.

A transaction of `reading_as` acts as a role that may read an account's settings, jobs and ledger and nothing else,
and row-level security shows that role the rows of one account. Workers and commands act as the owner of the tables,
who sees all of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from config.database import DATABASE_TROUBLE, transaction
from config.settings import ConfigurationError

ROLE = "creditmill_tenant"
"""The role of PostgreSQL that tenants' reads act as. It cannot log in."""
SHARED = frozenset({"ai_model_config", "global_integration_settings", "image_prices", "plans"})
"""Tables of no account's rows, of which the role may read some columns."""

# Both last as long as the transaction.
_ACT = text(f"SELECT set_config('creditmill.account_id', :account_id, true), set_config('role', '{ROLE}', true)")
_ROLE = text(
    """
    SELECT rolsuper, rolbypassrls, pg_has_role(current_user, oid, 'MEMBER') AS is_ours
    FROM pg_roles WHERE rolname = :role
    """
)
# Who belongs to the owner of a table is its owner to row-level security.
_TABLES = text(
    """
    SELECT c.relname AS name, pg_has_role(:role, c.relowner, 'MEMBER') AS owned, c.relrowsecurity AS apart,
           has_any_column_privilege(:role, c.oid, 'SELECT') AS readable,
           has_any_column_privilege(:role, c.oid, 'INSERT, UPDATE')
           OR has_table_privilege(:role, c.oid, 'DELETE, TRUNCATE') AS writable,
           EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
                   AND (a.attname LIKE '%\\_api\\_key' OR a.attname LIKE '%\\_encrypted')
                   AND has_column_privilege(:role, c.oid, a.attnum, 'SELECT')) AS tells_secrets
    FROM pg_class c WHERE c.relkind IN ('r', 'p') AND c.relnamespace = CAST(current_schema() AS regnamespace)
    ORDER BY c.relname
    """
)


@contextmanager
def reading_as(account_id: int) -> Iterator[Session]:
    """A transaction that reads one snapshot of this account's rows and can change nothing.

    Raises ConfigurationError when the database does not let this process act as the tenants' role.
    """
    with transaction(isolation="REPEATABLE READ", read_only=True) as session:
        try:
            session.execute(_ACT, {"account_id": str(account_id)})
        except DATABASE_TROUBLE:
            raise
        except DBAPIError:
            raise ConfigurationError(
                f"The database does not let this process act as {ROLE}: run `creditmill doctor`."
            ) from None
        yield session


def problems(session: Session) -> list[str]:
    """What keeps the tenants' role from showing an account its own rows and no others; a sentence each."""
    role = session.execute(_ROLE, {"role": ROLE}).one_or_none()
    if role is None:
        return [f"There is no role {ROLE}: create it as the documentation of deployment says."]
    if role.rolsuper:
        return [f"{ROLE} is a superuser, from whom nothing is hidden: run ALTER ROLE {ROLE} NOSUPERUSER."]
    found = [] if role.is_ours else [f"This database user may not act as {ROLE}: run GRANT {ROLE} TO it."]
    if role.rolbypassrls:
        found.append(f"{ROLE} bypasses row-level security: run ALTER ROLE {ROLE} NOBYPASSRLS.")
    tables = session.execute(_TABLES, {"role": ROLE}).all()
    if owned := [table.name for table in tables if table.owned]:
        return [*found, f"{ROLE} belongs to the owner of {_named(owned)}, from whom no row is hidden: revoke that."]
    for wrong, what in (
        ([each.name for each in tables if each.writable], "may write to"),
        ([each.name for each in tables if each.tells_secrets], "may read the secrets of"),
        ([each.name for each in tables if each.readable and not each.apart and each.name not in SHARED],
         "may read every account's rows of"),
    ):  # fmt: skip
        if wrong:
            found.append(f"{ROLE} {what} {_named(wrong)}: revoke that.")
    return found


def _named(tables: list[str]) -> str:
    return ", ".join(tables)
