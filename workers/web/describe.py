"""Prints the description of the API, as `docs/reference/openapi.json` keeps it."""

from __future__ import annotations

import json
import sys

from workers.web.app import make_app

if __name__ == "__main__":
    sys.stdout.write(json.dumps(make_app().openapi(), indent=2, ensure_ascii=False) + "\n")
