"""What a request costs the database, in statements, once its process knows the catalogue."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
from sqlalchemy import event

from config import database
from tests.integration.web.conftest import JOB


@contextmanager
def counted():
    """The statements that this process sends meanwhile."""
    sent = []

    def note(connection, cursor, statement, *_):
        sent.append(" ".join(statement.split())[:60])

    event.listen(database.engine(), "before_cursor_execute", note)
    try:
        yield sent
    finally:
        event.remove(database.engine(), "before_cursor_execute", note)


@pytest.mark.parametrize(
    ("method", "path", "count"),
    [
        # The key; the job, if it is covered; and of the balance, as whom and what.
        ("POST", "/jobs", 4),
        ("GET", "/jobs/{job_id}", 3),
        ("GET", "/jobs", 3),
        ("GET", "/balance", 4),
        ("GET", "/ledger", 4),
    ],
)
def test_a_request_takes_so_many_statements(app, method, path, count):
    job_id = app.submit(key="warm").json()["job_id"]
    app.submit(key="kept")

    with counted() as sent:
        answer = app.submit(JOB, key="measured") if method == "POST" else app.get(path.format(job_id=job_id))

    assert answer.status_code in (200, 202)
    assert len(sent) == count, sent
