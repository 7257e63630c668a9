"""The description of the API that apps are written against is the one that it gives of itself."""

from __future__ import annotations

import json
from pathlib import Path

from workers.web.app import make_app

COMMITTED = Path(__file__).parents[2] / "docs/reference/openapi.json"


def test_the_committed_description_is_that_of_the_api():
    described = json.dumps(make_app().openapi(), indent=2, ensure_ascii=False) + "\n"

    # To renew it: python -m workers.web.describe > docs/reference/openapi.json
    assert COMMITTED.read_text() == described


def test_the_description_is_of_openapi_3_1_and_names_every_field():
    described = json.loads(COMMITTED.read_text())

    assert described["openapi"].startswith("3.1")
    assert all(operation["description"] for methods in described["paths"].values() for operation in methods.values())
