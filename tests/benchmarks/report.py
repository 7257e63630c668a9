"""What a run found: a table for people, and everything that was measured as a file for programs."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from rich.table import Table

from tests.benchmarks.figures import Outcome, Round
from tests.benchmarks.mill import ROOT

PACKAGES = ("celery", "kombu", "redis", "dramatiq", "sqlalchemy", "psycopg2-binary", "openai", "aiohttp")


def shown(outcomes: Sequence[Outcome], rounds: int) -> Table:
    """The outcomes as a table."""
    title = f"Medians of {rounds} rounds" if rounds > 1 else "One round"
    made = Table(title=title, title_justify="left", header_style="bold")
    made.add_column("lane", no_wrap=True)
    for name in ("figure", "ratio", "target", "met"):
        made.add_column(name, justify="right", no_wrap=True)
    for each in outcomes:
        figure = f"{each.figure:,.1f} {each.line.unit}"
        ratio = "–" if each.ratio is None else f"{each.ratio:.2f}"
        met = "–" if each.met is None else "yes" if each.met else "no"
        made.add_row(each.line.title, figure, ratio, str(each.line.target or "–"), met)
    return made


def write(
    path: Path,
    rounds: Sequence[Round],
    outcomes: Sequence[Outcome],
    *,
    options: Mapping[str, Any],
    servers: Mapping[str, str],
    notes: Sequence[str],
    trouble: str | None,
) -> None:
    """Write everything that was measured, and where, as JSON."""
    found = {
        "written_at": datetime.now(UTC).isoformat(),
        "machine": {"cores": os.cpu_count(), "system": platform.platform(), "load": os.getloadavg()},
        "versions": {"python": platform.python_version(), **servers, **_packages(), "commit": _commit()},
        "options": dict(options),
        "outcomes": [
            {
                "lane": each.line.title,
                "figure": each.figure,
                "unit": each.line.unit,
                "ratio": each.ratio,
                "target": None if each.line.target is None else str(each.line.target),
                "met": each.met,
            }
            for each in outcomes
        ],
        "rounds": list(rounds),
        "notes": list(notes),
        "trouble": trouble,
    }
    path.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def _packages() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _commit() -> str | None:
    """The commit of this checkout, with a plus when something is not committed; None outside of git."""
    try:
        told = subprocess.run(
            ["git", "describe", "--always", "--dirty=+"], cwd=ROOT, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return told.stdout.strip()
