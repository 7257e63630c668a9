"""What an account's reads see: its own rows by every service, and no other's however they are asked for."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
from sqlalchemy import text
from sqlalchemy.exc import InternalError, ProgrammingError

from billing.errors import UnknownThing
from billing.jobs import receipts, story
from billing.ledger import accounts, statements, users
from billing.paging import Page
from billing.plans import plans
from billing.reports import revenue, usage_reports
from billing.reports.figures import By
from billing.settings import effective, saving
from billing.settings.saving import Owner
from billing.webhooks import deliveries, endpoints
from config import tenants
from config.database import transaction
from config.settings import ConfigurationError
from config.tenants import ROLE, SHARED, reading_as
from tests.catalogue import a_settled_job, sql
from tests.factories import NOON, a_subscription, a_user, an_account, rows

pytestmark = pytest.mark.usefixtures("db")
# table, which account a row of it belongs to; None for a row of the platform
OWNERS = {
    "accounts": "id",
    **dict.fromkeys(
        (
            "users", "credit_transactions", "generation_jobs", "account_settings", "integration_settings",
            "user_settings", "subscriptions", "plan_limit_usage", "revenue_rollups", "revenue_changes",
            "webhook_endpoints", "webhook_messages",
        ),
        "account_id",
    ),
    **dict.fromkeys(
        ("generation_results", "provider_calls"), "(SELECT account_id FROM generation_jobs WHERE id = job_id)"
    ),
    "change_history": "CAST(coalesce(new, old) ->> 'account_id' AS bigint)",
}  # fmt: skip
OF_OTHERS = "SELECT count(*) FROM {table} t WHERE {owner} <> :account_id"
OWN = "SELECT count(*) FROM {table} t WHERE {owner} = :account_id"


class Tenant:
    """An account with something of its own in every table that accounts read."""

    def __init__(self, name):
        self.account_id = an_account(name=name)
        self.user_id = a_user(self.account_id, f"{name}@example.com")
        with transaction() as session:
            endpoints.create(session, self.account_id, f"https://{name}.example/hook")
        self.job_id = a_settled_job(self.account_id, idempotency_key=name)
        a_subscription(self.account_id, {"content_ideas": 10})
        a_settled_job(self.account_id, "idea_generation", idempotency_key=f"{name}'s second")
        everybody, user = Owner(self.account_id), Owner(self.account_id, self.user_id)
        with transaction() as session:
            saving.save(session, everybody, "openai.temperature", 0.5, today=NOON.date())
            saving.save(session, everybody, "max_in_article_images", 3, today=NOON.date())
            saving.save(session, user, "image_style", "vivid", today=NOON.date())


@pytest.fixture
def two(db):
    tenants = Tenant("bakery"), Tenant("butcher")
    with transaction() as session:
        revenue.roll_up(session, now=NOON)
    for tenant in tenants:
        a_settled_job(tenant.account_id, idempotency_key="not rolled up yet")
    return tenants


def all_that_is_shown(account_id, job_id, user_id):
    """What every service tells an account of its settings, jobs and ledger."""
    return [
        lambda session: accounts.get(session, account_id).balance,
        lambda session: statements.entries(session, account_id, limit=9),
        lambda session: story.newest(session, account_id=account_id, state=None, limit=9),
        lambda session: story.views(session, [job_id]),
        lambda session: receipts.receipt(session, job_id, for_customer=True),
        lambda session: users.newest(session, account_id=account_id, limit=9),
        lambda session: deliveries.newest(session, account_id=account_id, state=None, limit=9),
        lambda session: plans.renewal(session, account_id, now=NOON),
        lambda session: plans.usage(session, account_id, now=NOON),
        lambda session: usage_reports.used(session, account_id, NOON.date(), NOON.date(), by=By.MODEL),
        lambda session: effective.effective(session, account_id).facts(),
        lambda session: effective.effective(session, account_id, user_id).facts(),
    ]


def owners_seen(account_id):
    """Of each table, how many rows an account sees of its own, and how many of others."""
    found = {}
    with reading_as(account_id) as session:
        for table, owner in OWNERS.items():
            given = {"account_id": account_id}
            found[table] = tuple(
                session.scalar(text(count.format(table=table, owner=owner)), given) for count in (OWN, OF_OTHERS)
            )
    return found


def test_an_account_is_shown_what_an_operator_would_be_shown_of_it(two):
    mine, _ = two
    given = (mine.account_id, mine.job_id, mine.user_id)
    with transaction() as session:
        told = [show(session) for show in all_that_is_shown(*given)]

    with reading_as(mine.account_id) as session:
        assert [show(session) for show in all_that_is_shown(*given)] == told


def test_no_service_shows_an_account_what_is_anothers(two):
    mine, other = two

    with reading_as(mine.account_id) as session:
        for show in all_that_is_shown(other.account_id, other.job_id, other.user_id):
            try:
                told = show(session)
            except UnknownThing:
                continue
            assert (told.rows if isinstance(told, Page) else told) in ({}, [], None)
        jobs = story.newest(session, account_id=None, state=None, limit=9).rows
        assert {job.account_id for job in jobs} == {mine.account_id}
        assert [user.account_id for user in users.newest(session, limit=9).rows] == [mine.account_id]
        with pytest.raises(UnknownThing):
            effective.effective(session, mine.account_id, other.user_id)


def test_no_statement_shows_an_account_a_row_of_another(two):
    mine, other = two

    assert all(own > 0 for own, _ in owners_seen(mine.account_id).values())
    assert {table for table, (_, others) in owners_seen(mine.account_id).items() if others} == set()
    with reading_as(mine.account_id) as session:
        for table in ("generation_results", "provider_calls"):
            one = f"SELECT count(*) FROM {table} WHERE job_id = :job_id"
            assert session.scalar(text(one), {"job_id": other.job_id}) == 0
            assert session.scalar(text(f"SELECT count(*) FROM {table}")) == 3


@pytest.mark.parametrize("table", OWNERS)
def test_without_the_guard_of_a_table_its_rows_are_shown_and_the_doctor_says_so(two, table):
    sql(f"ALTER TABLE {table} DISABLE ROW LEVEL SECURITY")
    account_id = two[0].account_id

    with reading_as(account_id) as session:
        (whole,) = rows(f"SELECT count(*) FROM {table}")[0]
        assert session.scalar(text(f"SELECT count(*) FROM {table}")) == whole
    with transaction() as session:
        assert tenants.problems(session) == [f"{ROLE} may read every account's rows of {table}: revoke that."]


def test_the_role_reads_exactly_these_tables():
    readable = "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace "
    readable += f"AND has_any_column_privilege('{ROLE}', oid, 'SELECT')"

    assert {table for (table,) in rows(readable)} == set(OWNERS) | SHARED


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE accounts SET balance = balance + 1",
        "DELETE FROM credit_transactions",
        "INSERT INTO account_settings (account_id, key, value) VALUES (1, 'image_style', '\"a\"')",
        "TRUNCATE generation_jobs CASCADE",
        "SELECT openai_api_key FROM global_integration_settings",
        "SELECT * FROM global_integration_settings",
        "SELECT input_cost_per_1m FROM ai_model_config",
        "SELECT * FROM credit_usage_logs",
        "SELECT * FROM dead_messages",
        "SELECT * FROM subscription_periods",
        "SELECT * FROM api_keys",
        "SELECT nextval('accounts_id_seq')",
        "CREATE TABLE mine (id bigint)",
    ],
)
def test_the_role_can_neither_write_nor_read_what_is_not_an_accounts_business(statement):
    # The rights themselves, where the transaction would let it write.
    with transaction() as session:
        session.execute(text(f"SET LOCAL ROLE {ROLE}"))
        with pytest.raises(ProgrammingError, match="permission denied"):
            session.execute(text(statement))
        session.rollback()


@pytest.mark.usefixtures("two")
def test_a_transaction_of_an_account_writes_nothing_whoever_it_acts_as():
    with reading_as(1) as session:
        session.execute(text("RESET ROLE"))
        with pytest.raises(InternalError, match="read-only"):
            session.execute(text("UPDATE accounts SET balance = balance + 1"))


def test_who_has_named_no_account_sees_none(two):
    with transaction() as session:
        session.execute(text(f"SET LOCAL ROLE {ROLE}"))
        for table in OWNERS:
            if table != "change_history":
                assert session.scalar(text(f"SELECT count(*) FROM {table}")) == 0


def test_the_next_user_of_the_connection_acts_as_before(two):
    mine = two[0].account_id
    for _ in range(9):
        with pytest.raises(UnknownThing), reading_as(mine) as session:
            accounts.get(session, two[1].account_id)
        with transaction() as session:
            assert accounts.get(session, two[1].account_id)
            session.execute(text(f"SET LOCAL ROLE {ROLE}"))
            assert session.scalar(text("SELECT count(*) FROM accounts")) == 0


def test_accounts_that_read_at_once_see_each_its_own(two):
    together = Barrier(8)

    def read(number):
        account_id = two[number % 2].account_id
        together.wait(timeout=30)
        for _ in range(20):
            with reading_as(account_id) as session:
                assert {job.account_id for job in story.newest(
                    session, account_id=None, state=None, limit=9).rows} == {account_id}  # fmt: skip
        return True

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(read, range(8)))


def test_programs_that_are_not_the_owner_see_all_rows_as_before(two):
    with transaction() as session:
        session.execute(text("CREATE ROLE creditmill_reports"))
        session.execute(text("GRANT SELECT ON ALL TABLES IN SCHEMA public TO creditmill_reports"))
        session.execute(text("SET LOCAL ROLE creditmill_reports"))
        for table, owner in OWNERS.items():
            seen = session.scalar(text(f"SELECT count(DISTINCT {owner}) FROM {table} t"))
            assert seen == 2, table
        session.rollback()


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (f"ALTER ROLE {ROLE} SUPERUSER", "is a superuser"),
        (f"ALTER ROLE {ROLE} BYPASSRLS", "bypasses row-level security"),
        (f"ALTER TABLE generation_jobs OWNER TO {ROLE}", "belongs to the owner of generation_jobs"),
        (f"CREATE ROLE boss; ALTER TABLE accounts OWNER TO boss; GRANT boss TO {ROLE}", "to the owner of accounts"),
        (f"GRANT UPDATE (balance) ON accounts TO {ROLE}", "may write to accounts"),
        (f"GRANT DELETE ON users TO {ROLE}", "may write to users"),
        (f"GRANT SELECT ON api_keys TO {ROLE}", "every account's rows of api_keys"),
        ("GRANT SELECT ON credit_usage_logs TO PUBLIC", "every account's rows of credit_usage_logs"),
        (f"GRANT SELECT ON global_integration_settings TO {ROLE}", "the secrets of global_integration_settings"),
        (f"ALTER ROLE {ROLE} RENAME TO creditmill_lost", "There is no role creditmill_tenant"),
    ],
)
def test_a_role_that_sees_or_does_more_is_refused(damage, told):
    with transaction() as session:
        assert tenants.problems(session) == []
        session.execute(text(damage))
        (problem,) = tenants.problems(session)
        session.rollback()

    assert told in problem


def test_a_user_that_may_not_act_as_the_role_is_told():
    with transaction() as session:
        session.execute(text("CREATE ROLE clerk; SET LOCAL ROLE clerk"))
        assert tenants.problems(session) == [f"This database user may not act as {ROLE}: run GRANT {ROLE} TO it."]
        session.rollback()


def test_where_the_role_is_missing_nothing_is_read(two, monkeypatch):
    monkeypatch.setattr("config.tenants._ACT", text("SELECT set_config('role', 'nobody', true), :account_id"))

    with pytest.raises(ConfigurationError, match="creditmill doctor"), reading_as(two[0].account_id):
        pytest.fail("the block is not entered")
