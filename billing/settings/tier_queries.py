"""Queries over the settings of three tiers: those that hold, since when, and the one upsert of a save."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

from sqlalchemy import text
from sqlalchemy.orm import Session

from config.tiers.naming import CHOICES, INTEGRATIONS, PLATFORM_COLUMNS


class Own(NamedTuple):
    """One setting of an account, or of one of its users."""

    account_id: int
    user_id: int | None
    name: str
    value: Any


class Told(NamedTuple):
    """One setting of one tier, and since when it holds; None where nobody has changed it."""

    tier: str
    name: str
    value: Any
    since: datetime | None


# The setting lives as long as the transaction whose change set it.
_CLOCK_VERSION_AND_OWN = text(
    """
    SELECT clock_timestamp(), version::text, coalesce(current_setting('creditmill.catalog_changed', true), '') <> '',
           (SELECT jsonb_agg(jsonb_build_array(o.account_id, o.user_id, o.name, o.value))
            FROM accounts a CROSS JOIN LATERAL (
                SELECT s.account_id, CAST(NULL AS bigint) AS user_id, s.key AS name, s.value
                FROM account_settings s WHERE s.account_id = a.id
                UNION ALL
                SELECT i.account_id, NULL, i.integration_type || '.' || c.key, c.value
                FROM integration_settings i CROSS JOIN LATERAL jsonb_each(i.config) c WHERE i.account_id = a.id
                UNION ALL
                SELECT u.account_id, u.user_id, u.key, u.value FROM user_settings u
                WHERE u.account_id = a.id AND u.user_id = ANY(CAST(:users AS bigint[]))
            ) o
            WHERE a.id = ANY(CAST(:accounts AS bigint[])) AND a.has_settings)
    FROM catalog_version
    """
)

# What the history has of one member of a row: when it changed last.
_CHANGED = """
    (SELECT max(h.changed_at) FROM change_history h WHERE h.table_name = '{table}' AND h.row_name = {row}
     AND h.old {member} IS DISTINCT FROM h.new {member})
"""
_COLUMNS = ", ".join(f"('{name}', to_jsonb(g.{column}), '{column}')" for name, column in PLATFORM_COLUMNS.items())
_KINDS = ", ".join(f"('{kind}', '{name}')" for kind, name in CHOICES.items())
_INTEGRATIONS = ", ".join(f"('{name}', '{kind}', '{by}')" for name, (kind, by, _) in INTEGRATIONS.items())
# The default model of a kind says which provider the platform has chosen, and is the model of its integration; that of
# any other is the first one that is offered and has a price.
_EFFECTIVE = text(
    f"""
    WITH chosen AS (
        SELECT m.model_name, m.model_type, m.provider, m.is_default, m.sort_order,
               coalesce({_CHANGED.format(table="ai_model_config", row="m.model_name", member="-> 'is_default'")},
                             m.created_at) AS since
        FROM ai_model_config m CROSS JOIN global_integration_settings g
        WHERE m.is_active AND (g.simulated OR m.deprecation_date IS NULL
                               OR m.deprecation_date > CAST(now() AT TIME ZONE 'UTC' AS date))
          AND (m.output_cost_per_1m IS NOT NULL
               OR EXISTS (SELECT FROM image_prices p WHERE p.model_name = m.model_name))
    )
    SELECT 'platform', p.name, p.value,
           {_CHANGED.format(table="global_integration_settings", row="'1'", member="-> p.field")}
    FROM global_integration_settings g CROSS JOIN LATERAL (VALUES {_COLUMNS}) p(name, value, field)
    WHERE NOT EXISTS (SELECT FROM (VALUES {_KINDS}) k(kind, name)
                      JOIN chosen m ON m.model_type = k.kind AND m.is_default WHERE k.name = p.name)
    UNION ALL
    SELECT 'platform', k.name, to_jsonb(m.provider), m.since
    FROM (VALUES {_KINDS}) k(kind, name) JOIN chosen m ON m.model_type = k.kind AND m.is_default
    UNION ALL
    SELECT 'platform', i.name || '.model', to_jsonb(m.model_name), m.since
    FROM (VALUES {_INTEGRATIONS}) i(name, kind, provider)
    CROSS JOIN LATERAL (SELECT * FROM chosen WHERE model_type = i.kind AND provider = i.provider
                        ORDER BY is_default DESC, sort_order, model_name LIMIT 1) m
    UNION ALL
    SELECT 'account', s.key, s.value, s.updated_at FROM account_settings s WHERE s.account_id = :account_id
    UNION ALL
    SELECT 'account', i.integration_type || '.' || c.key, c.value,
           coalesce((SELECT max(h.changed_at) FROM change_history h
                     WHERE h.table_name = 'integration_settings' AND h.row_name = CAST(:account_id AS text)
                       AND coalesce(h.new, h.old) ->> 'integration_type' = i.integration_type
                       AND h.old -> 'config' -> c.key IS DISTINCT FROM h.new -> 'config' -> c.key), i.updated_at)
    FROM integration_settings i CROSS JOIN LATERAL jsonb_each(i.config) c WHERE i.account_id = :account_id
    UNION ALL
    SELECT 'user', u.key, u.value, u.updated_at FROM user_settings u
    WHERE u.account_id = :account_id AND u.user_id = :user_id
    """  # noqa: S608 - names of our own columns
)

_SAVE = {
    "account": text(
        """
        INSERT INTO account_settings (account_id, key, value)
        VALUES (:account_id, :key, CAST(:value AS jsonb))
        ON CONFLICT (account_id, key) DO UPDATE SET value = excluded.value, updated_at = now()
        WHERE account_settings.value IS DISTINCT FROM excluded.value
        """
    ),
    "integration": text(
        """
        INSERT INTO integration_settings AS i (account_id, integration_type, config)
        VALUES (:account_id, :integration, CAST(:config AS jsonb))
        ON CONFLICT (account_id, integration_type) DO UPDATE SET config = i.config || excluded.config,
            updated_at = now()
        WHERE i.config IS DISTINCT FROM i.config || excluded.config
        """
    ),
    "user": text(
        """
        INSERT INTO user_settings (user_id, account_id, key, value)
        VALUES (:user_id, :account_id, :key, CAST(:value AS jsonb))
        ON CONFLICT (user_id, account_id, key) DO UPDATE SET value = excluded.value, updated_at = now()
        WHERE user_settings.value IS DISTINCT FROM excluded.value
        """
    ),
}
_UNSET = {
    "account": text("DELETE FROM account_settings WHERE account_id = :account_id AND key = :key RETURNING 1"),
    "user": text(
        "DELETE FROM user_settings WHERE user_id = :user_id AND account_id = :account_id AND key = :key RETURNING 1"
    ),
    # A row without a setting is none: what would be empty goes as a whole.
    "integration": text(
        """
        WITH emptied AS (
            DELETE FROM integration_settings WHERE account_id = :account_id AND integration_type = :integration
            AND config ? CAST(:name AS text) AND config - CAST(:name AS text) = '{}' RETURNING 1
        ), lessened AS (
            UPDATE integration_settings SET config = config - CAST(:name AS text), updated_at = now()
            WHERE account_id = :account_id AND integration_type = :integration
            AND config ? CAST(:name AS text) AND config - CAST(:name AS text) <> '{}' RETURNING 1
        )
        SELECT 1 FROM emptied UNION ALL SELECT 1 FROM lessened
        """
    ),
}


def clock_version_and_own(
    session: Session, accounts: Collection[int], users: Collection[int]
) -> tuple[datetime, str, bool, list[Own]]:
    """The database's clock, the catalogue's version, whether this transaction has changed it, and what these accounts
    and users have set themselves; only accounts whose row says so are read.
    """
    given = {"accounts": sorted(accounts), "users": sorted(users)}
    now, version, changed_here, own = session.execute(_CLOCK_VERSION_AND_OWN, given).one()
    return now.astimezone(UTC), version, changed_here, [Own(*each) for each in own or ()]


def effective(session: Session, account_id: int | None, user_id: int | None) -> list[Told]:
    """Every setting of each tier, from the platform's to this user's."""
    found = session.execute(_EFFECTIVE, {"account_id": account_id, "user_id": user_id})
    return [Told(tier, name, value, since and since.astimezone(UTC)) for tier, name, value, since in found]


def save_of_account(session: Session, account_id: int, key: str, value: Any) -> None:
    """Create or update one setting of an account."""
    session.execute(_SAVE["account"], {"account_id": account_id, "key": key, "value": json.dumps(value)})


def save_of_integration(session: Session, account_id: int, integration: str, config: Mapping[str, Any]) -> None:
    """Create or update these settings of an account's integration; its others stay."""
    given = {"account_id": account_id, "integration": integration, "config": json.dumps(config)}
    session.execute(_SAVE["integration"], given)


def save_of_user(session: Session, account_id: int, user_id: int, key: str, value: Any) -> None:
    """Create or update one setting of a user."""
    given = {"account_id": account_id, "user_id": user_id, "key": key, "value": json.dumps(value)}
    session.execute(_SAVE["user"], given)


def unset_of_account(session: Session, account_id: int, key: str) -> bool:
    """Remove one setting of an account; False when there was none."""
    return session.execute(_UNSET["account"], {"account_id": account_id, "key": key}).first() is not None


def unset_of_integration(session: Session, account_id: int, integration: str, name: str) -> bool:
    """Remove one setting of an account's integration; False when there was none."""
    given = {"account_id": account_id, "integration": integration, "name": name}
    return session.execute(_UNSET["integration"], given).first() is not None


def unset_of_user(session: Session, account_id: int, user_id: int, key: str) -> bool:
    """Remove one setting of a user; False when there was none."""
    given = {"account_id": account_id, "user_id": user_id, "key": key}
    return session.execute(_UNSET["user"], given).first() is not None


def save_of_platform(session: Session, column: str, value: Any) -> None:
    """Change one column of the platform's row. Its `updated_at` tells since when the connections are as they are."""
    given = {"value": json.dumps(value)}
    assert column in PLATFORM_COLUMNS.values()
    session.execute(
        text(
            f"UPDATE global_integration_settings g SET {column} = r.{column} "  # noqa: S608 - a name of our own columns
            f"FROM jsonb_populate_record(CAST(NULL AS global_integration_settings), "
            f"jsonb_build_object('{column}', CAST(:value AS jsonb))) r WHERE g.{column} IS DISTINCT FROM r.{column}"
        ),
        given,
    )
