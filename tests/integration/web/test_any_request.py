"""Requests that nobody thought of: whatever is asked, the answer is one that the API's description has."""

from __future__ import annotations

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis.specs.openapi.checks import positive_data_acceptance

from tests.factories import a_user, an_account
from tests.integration.web.conftest import App, work_off
from tests.integration.web.test_access import PLACES, SCOPES
from tests.rounds import rounds


@pytest.mark.parametrize(("method", "path"), SCOPES)
def test_whatever_is_asked_is_answered_as_described(client, method, path):
    described = schemathesis.openapi.from_asgi("/openapi.json", client.app)
    account_id = an_account(100_000)
    app = App(client, account_id, user_id=a_user(account_id))
    job_id = app.submit().json()["job_id"]
    work_off(job_id)
    key = App(client, None).key if "/admin/" in path else app.key

    @settings(
        max_examples=rounds(40),
        deadline=None,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
        database=None,
    )
    @given(case=described[path][method].as_strategy(), knows=st.booleans())
    def ask(case, knows):
        if knows:
            known = {**PLACES, "job_id": job_id, "account_id": account_id}
            for name in case.path_parameters:
                case.path_parameters[name] = known[name]
            if "If-Match" in case.headers:
                case.headers["If-Match"] = "*"
        if "wait" in (case.query or {}):
            case.query["wait"] = 0
        # What fits the description may still be refused: an operation that there is not, an account that is poor.
        case.call_and_validate(headers={"Authorization": f"Bearer {key}"}, excluded_checks=[positive_data_acceptance])

    ask()
