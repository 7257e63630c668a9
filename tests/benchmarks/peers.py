"""The lanes beside ours: a bare chain, a naive chain and Dramatiq, each with two worker processes."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence

from tests.benchmarks.figures import Figures
from tests.benchmarks.mill import ROOT
from tests.benchmarks.place import BenchError, Place
from tests.benchmarks.running import Program, running

WORKERS = 2
DATABASE = "peers"
CELERY = "tests.benchmarks.programs.celery_chain"
DRAMATIQ = "tests.benchmarks.programs.dramatiq_chain"


def on_celery(place: Place, peer: str, jobs: int) -> Figures:
    """The chain of this peer (bare or naive) on Celery."""
    options = ["--pool=solo", "--loglevel=WARNING", "--without-gossip", "--without-mingle", "--without-heartbeat"]
    command = ["-m", "celery", "-A", CELERY, "worker", *options]
    workers = [[*command, f"--hostname=peer-{number}"] for number in range(WORKERS)]
    return _measured(place, peer, jobs, workers, ["-m", CELERY, peer, str(jobs)])


def on_dramatiq(place: Place, jobs: int) -> Figures:
    """The naive chain's steps on Dramatiq."""
    if importlib.util.find_spec("dramatiq") is None:
        raise BenchError("Dramatiq is not installed: `make bench` installs it, or pip install -e '.[bench]'.")
    # With its default of eight threads a process, which wait for the disk together: one thread takes twice as long.
    worker = ["-m", "dramatiq", DRAMATIQ, "--processes", str(WORKERS)]
    return _measured(place, "dramatiq", jobs, [worker], ["-m", DRAMATIQ, str(jobs)])


def _measured(place: Place, name: str, jobs: int, workers: Sequence[Sequence[str]], driver: Sequence[str]) -> Figures:
    place.empty_broker()
    place.copy_database(DATABASE)
    try:
        environment = {
            "DATABASE_URL": place.postgres.database_url(DATABASE),
            "BROKER_URL": place.valkey.url,
            "PYTHONPATH": str(ROOT),
        }
        programs = [
            Program(f"{name}-{number}", [sys.executable, *arguments], ROOT, environment)
            for number, arguments in enumerate(workers)
        ]
        with running(place.folder / "logs" / name, programs) as started:
            said = started.ask(Program(name, [sys.executable, *driver], ROOT, environment))
    finally:
        place.drop_database(DATABASE)
    return {"jobs": jobs, "seconds": said["seconds"], "jobs_s": jobs / said["seconds"]}
