"""An account's time zone is one of IANA's, whatever else lies in a machine's folder of zones."""

from __future__ import annotations

import pytest

from billing.errors import InvalidRequest
from billing.ledger import accounts
from config.database import transaction
from tests.factories import an_account, rows

pytestmark = pytest.mark.usefixtures("db")


@pytest.mark.parametrize(
    "name",
    ["localtime", "posixrules", "Factory", "right/UTC", "posix/Europe/Berlin", "Mars/Olympus", "", "../UTC", "\0"],
)
def test_what_is_no_time_zone_is_refused(name):
    with pytest.raises(InvalidRequest) as caught, transaction() as session:
        accounts.create(session, "Bakery", time_zone=name)

    assert caught.value.code == "invalid_time_zone"
    assert rows("SELECT count(*) FROM accounts") == [(0,)]


@pytest.mark.parametrize("name", ["UTC", "GB", "Europe/Berlin", "America/Argentina/Ushuaia", "Etc/GMT+5"])
def test_iana_s_names_and_aliases_are_time_zones(name):
    assert an_account(time_zone=name) > 0
