"""Secrets are bound to their place, provider keys to row and field: what was encrypted without a place is encrypted anew with one.

What no key of CREDITMILL_SECRET_KEY decrypts stays as it is: nobody can read it, and it can only be set anew.
"""

from collections.abc import Callable

import sqlalchemy as sa
from alembic import op

from config.secrets import UnreadableSecret, decrypt_unbound, encrypt_unbound

revision = "0013_bound_secrets"
down_revision = "0012_tiers"
branch_labels = None
depends_on = None

PROVIDERS = ("openai", "dalle", "anthropic", "runware", "google")


def upgrade() -> None:
    _rewrite(lambda clear, place: f"{place}\0{clear}")


def downgrade() -> None:
    _rewrite(lambda clear, place: clear.removeprefix(f"{place}\0"))


def _rewrite(change: Callable[[str, str], str]) -> None:
    # What it writes says the same as before, so it is no change that the history keeps.
    op.execute("ALTER TABLE global_integration_settings DISABLE TRIGGER keep_history")
    for provider in PROVIDERS:
        column = f"{provider}_api_key"
        token = op.get_bind().scalar(sa.text(f"SELECT {column} FROM global_integration_settings"))
        if token is not None and (clear := _clear(token)) is not None:
            changed = encrypt_unbound(change(clear, f"global_integration_settings/1/{column}"))
            op.get_bind().execute(
                sa.text(f"UPDATE global_integration_settings SET {column} = :token"), {"token": changed}
            )
    op.execute("ALTER TABLE global_integration_settings ENABLE TRIGGER keep_history")
    bodies = "SELECT id, body_encrypted FROM dead_messages WHERE body_encrypted IS NOT NULL"
    for dead_id, token in op.get_bind().execute(sa.text(bodies)).all():
        if (clear := _clear(token)) is not None:
            changed = encrypt_unbound(change(clear, "dead_messages/body_encrypted"))
            statement = "UPDATE dead_messages SET body_encrypted = :token WHERE id = :id"
            op.get_bind().execute(sa.text(statement), {"token": changed, "id": dead_id})


def _clear(token: str) -> str | None:
    try:
        return decrypt_unbound(token)
    except UnreadableSecret:
        return None
