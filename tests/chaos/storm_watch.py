"""Who looks on during a storm, past the proxies: the audit, again and again, and the memory of every process."""

from __future__ import annotations

import threading
from collections import defaultdict
from datetime import UTC, datetime

import psutil
from sqlalchemy.orm import Session

from billing.reports import audit
from billing.reports.audit import Finding
from config.database import DATABASE_TROUBLE, utc_now
from tests.chaos.storm_world import PROVIDER, World

AUDIT_EVERY_S = 1.5
MEASURE_EVERY_S = 2.0
SNAPSHOT = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}


class Auditor:
    """Audits the books in one snapshot after another; the first finding of each row is kept with its time."""

    def __init__(self, world: World) -> None:
        self.clean = 0
        self.missed = 0
        self.findings: dict[tuple[str, str], tuple[datetime, Finding]] = {}
        self.broken: str | None = None
        self._world = world

    def look(self) -> None:
        """One audit; while the database is away there is none."""
        try:
            with self._world.direct.connect() as connection:
                found = findings(connection.execution_options(**SNAPSHOT))
        except DATABASE_TROUBLE:
            self.missed += 1
            return
        self.clean += not found
        for finding in found:
            self.findings.setdefault((finding.rule, finding.row), (datetime.now(UTC), finding))


def findings(connection: object) -> list[Finding]:
    """What the audit finds in one snapshot over this connection."""
    with Session(connection) as session, session.begin():  # type: ignore[arg-type]
        return audit.audit(session, now=utc_now())


class Scales:
    """The resident memory of every worker and beat process, children included, in MB."""

    def __init__(self, world: World) -> None:
        self.peak_mb: dict[str, float] = defaultdict(float)
        self.last_mb: dict[str, float] = {}
        self._world = world

    def look(self) -> None:
        """Measure each process once."""
        last: dict[str, float] = {}
        for name, pid in self._world.supervisor.pids().items():
            if name == PROVIDER:
                continue
            try:
                main = psutil.Process(pid)
                sizes = [process.memory_info().rss / 2**20 for process in [main, *main.children(recursive=True)]]
            except psutil.NoSuchProcess:
                continue
            last[name] = max(sizes)
            self.peak_mb[name] = max(self.peak_mb[name], last[name])
        self.last_mb = last


class Watch:
    """Runs both in threads of their own until `stop`."""

    def __init__(self, world: World) -> None:
        self.auditor = Auditor(world)
        self.scales = Scales(world)
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._go_on, args=[look, every_s], name="watch", daemon=True)
            for look, every_s in ((self.auditor.look, AUDIT_EVERY_S), (self.scales.look, MEASURE_EVERY_S))
        ]

    def start(self) -> None:
        """Begin to look."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Look no more."""
        self._stop.set()
        for thread in self._threads:
            thread.join(timeout=40)

    def _go_on(self, look: object, every_s: float) -> None:
        while not self._stop.wait(every_s):
            try:
                look()  # type: ignore[operator]
            except Exception as error:  # noqa: BLE001 - a watch that ended unseen would find nothing
                self.auditor.broken = f"{type(error).__name__}: {str(error)[:300]}"
                return
