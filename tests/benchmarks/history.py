"""Databases with a long history: one job that was really settled, copied as often as asked for.

Whatever rows the job has are copied, in every table that knows it, with columns of their own where they must differ.
No trigger fires meanwhile; balances, the ledger and the roll-ups are brought up to date, so that the books balance.
"""

from __future__ import annotations

from sqlalchemy import Connection, text

from tests.benchmarks.mill import Mill
from tests.benchmarks.sizes import ACCOUNTS, LEAST

DAYS = 30
"""How many days before today the history lasts."""

JOB_TABLES = """
    SELECT 'generation_jobs' UNION ALL
    SELECT c.table_name FROM information_schema.columns c
    JOIN information_schema.tables t USING (table_schema, table_name)
    WHERE c.table_schema = 'public' AND c.column_name = 'job_id' AND t.table_type = 'BASE TABLE'
"""
COLUMNS = """
    SELECT column_name, data_type FROM information_schema.columns
    WHERE table_schema = 'public' AND table_name = :table AND is_generated = 'NEVER' AND is_identity = 'NO'
    ORDER BY ordinal_position
"""
COPY = """
    INSERT INTO {table} ({columns})
    SELECT {values} FROM {table} t, generate_series(CAST(0 AS bigint), {rows} - 1) n WHERE t.{key} = '{job_id}'
    ORDER BY n
"""
CHANGED = {
    "id": "md5('history ' || n)::uuid",
    "job_id": "md5('history ' || n)::uuid",
    "account_id": f"1 + n % {ACCOUNTS}",
    "idempotency_key": "'history ' || n",
    "balance_after": f"(SELECT balance FROM accounts WHERE id = 1 + n % {ACCOUNTS}) + t.amount * (1 + n / {ACCOUNTS})",
}
"""What is each copy's own."""
CHARGE = """
    UPDATE accounts a SET balance = a.balance - {charge} * of.jobs
    FROM (SELECT 1 + n % {accounts} AS id, count(*) AS jobs FROM generate_series(0, {rows} - 1) n GROUP BY 1) of
    WHERE a.id = of.id
"""
ONE = "SELECT id, credits_charged FROM generation_jobs WHERE state = 'settled' ORDER BY created_at DESC LIMIT 1"


def make_history(mill: Mill, database: str, rows: int) -> None:
    """Make a database with this many finished jobs."""
    mill.make_database(database)
    with mill.working_on(database) as work:
        work.customer("one", LEAST, ACCOUNTS)
    with mill.place.connection(database) as connection:
        # No trigger fires, no foreign key is checked.
        connection.execute(text("SET session_replication_role = replica"))
        job_id, charge = connection.execute(text(ONE)).one()
        for table in connection.scalars(text(JOB_TABLES)).all():
            _copy(connection, table, str(job_id), rows)
        connection.execute(text(CHARGE.format(charge=charge, accounts=ACCOUNTS, rows=rows)))
    mill.run(database, "revenue", "rebuild")
    with mill.place.connection(database) as connection:
        connection.execute(text("VACUUM ANALYZE"))
        connection.execute(text("CHECKPOINT"))


def _copy(connection: Connection, table: str, job_id: str, rows: int) -> None:
    columns = connection.execute(text(COLUMNS), {"table": table}).all()
    values = [_value(name, kind, rows) for name, kind in columns]
    statement = COPY.format(
        table=table,
        columns=", ".join(name for name, _ in columns),
        values=", ".join(values),
        rows=rows,
        key="id" if table == "generation_jobs" else "job_id",
        job_id=job_id,
    )
    connection.execute(text(statement))


def _value(column: str, kind: str, rows: int) -> str:
    if kind == "timestamp with time zone":
        # The oldest first, the last one yesterday: today's roll-ups are those of the real jobs.
        return f"t.{column} - interval '1 day' - ({rows} - 1 - n) * (interval '{DAYS} days' / {rows})"
    return CHANGED.get(column, f"t.{column}")
