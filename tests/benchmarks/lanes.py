"""The lanes of Creditmill: each runs real processes on a database of its own, and returns what it measured."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import text

from tests.benchmarks import peers
from tests.benchmarks.figures import Figures, percentile
from tests.benchmarks.history import make_history
from tests.benchmarks.measuring import cpu_seconds, memory_mb, peak_of
from tests.benchmarks.mill import KEY_VARIABLE, PROGRAMS, ROOT, Mill, NotAudited, audit_books
from tests.benchmarks.place import Place
from tests.benchmarks.running import Program, Running, running
from tests.benchmarks.sizes import (
    ACCOUNTS,
    BULK_CALL,
    HTTP_LATENCY_S,
    IN_FLIGHT_LATENCY_S,
    LEAST,
    SMALL_HISTORY,
    TICKS,
    Sizes,
)
from workers.local.machine import SIMULATOR_KEY, free_port, generation_workers
from workers.simulator.journal import read_journal

PAGES = """
    SELECT coalesce(sum(heap_blks_read + heap_blks_hit + coalesce(idx_blks_read + idx_blks_hit, 0)
                        + coalesce(toast_blks_read + toast_blks_hit + tidx_blks_read + tidx_blks_hit, 0)), 0)::bigint
    FROM pg_statio_user_tables
"""
"""The pages of all tables and indexes that statements have touched since the database was made."""
DEFAULT_CONCURRENCY = 64
WARM_UP_CALLS = 100
"""Calls that each generation worker may make before any are measured."""


@dataclass
class Bench:
    """What all lanes of a run share."""

    place: Place
    sizes: Sizes
    mill: Mill
    baseline: Mill | None = None
    rounds: int = 1
    number: int = 0
    """The number of the round, from 0."""
    histories: set[str] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)
    """What a reader of the figures has to know."""

    @property
    def is_last_round(self) -> bool:
        """Whether no other round follows."""
        return self.number + 1 == self.rounds


def bare(bench: Bench) -> Figures:
    """A Celery chain of four tasks that do nothing."""
    return peers.on_celery(bench.place, "bare", bench.sizes.jobs)


def naive(bench: Bench) -> Figures:
    """A Celery chain of four tasks with a statement each."""
    return peers.on_celery(bench.place, "naive", bench.sizes.jobs)


def dramatiq(bench: Bench) -> Figures:
    """The same on Dramatiq."""
    return peers.on_dramatiq(bench.place, bench.sizes.jobs)


def one_by_one(bench: Bench) -> Figures:
    """One job a call, on many accounts."""
    return _submitted(bench, "one-by-one", bench.sizes.jobs, "one", bench.sizes.jobs, ACCOUNTS)


def bulk(bench: Bench) -> Figures:
    """Many jobs a call, on many accounts."""
    return _submitted(bench, "bulk", bench.sizes.bulk, "bulk", bench.sizes.bulk, ACCOUNTS, BULK_CALL)


def one_account(bench: Bench) -> Figures:
    """One job a call, all on one account."""
    return _submitted(bench, "one-account", bench.sizes.jobs, "one", bench.sizes.jobs, 1)


def bulk_one_account(bench: Bench) -> Figures:
    """Many jobs a call, all on one account."""
    return _submitted(bench, "bulk-one-account", bench.sizes.bulk, "bulk", bench.sizes.bulk, 1, BULK_CALL)


def http(bench: Bench) -> Figures:
    """Calls through the SDK over HTTP, beside the SDK alone."""
    # As many workers as a machine runs; together they make as many calls at a time as the SDK alone.
    workers = generation_workers()
    figures, _ = _beside_raw(bench, "http", bench.sizes.http, DEFAULT_CONCURRENCY, HTTP_LATENCY_S, workers=workers)
    return figures


def in_flight(bench: Bench) -> Figures:
    """Calls that all wait for their answer at the same time, beside the SDK alone."""
    calls = bench.sizes.in_flight
    figures, most = _beside_raw(bench, "in-flight", calls, calls, IN_FLIGHT_LATENCY_S)
    return {**figures, "most_in_flight": most}


def idle(bench: Bench) -> Figures:
    """One job at a time on an idle system; with a baseline, also on that."""
    figures = {}
    for mill, prefix in ((bench.mill, ""), (bench.baseline, "baseline_")):
        if mill is not None:
            with mill.at_work(f"{prefix}idle") as work:
                times_ms = work.customer("idle", bench.sizes.idle)["times_ms"]
            figures |= {f"{prefix}p{percent}_ms": percentile(times_ms, percent) for percent in (50, 99)}
    return figures


def history(bench: Bench) -> Figures:
    """What a job and a tick of recovery cost after few and after many finished jobs."""
    figures: dict[str, float] = {}
    sizes = [("small", SMALL_HISTORY), ("large", bench.sizes.large_history)]
    for name, rows in sizes if bench.number % 2 == 0 else sizes[::-1]:
        database = f"history_{name}"
        if database not in bench.histories:
            make_history(bench.mill, database, rows)
            bench.histories.add(database)
        for figure, value in _cost_of_a_job(bench, database).items():
            figures[f"{name}_{figure}"] = value
    if bench.is_last_round:
        _audit_histories(bench)
    return figures


LANES: Mapping[str, Callable[[Bench], Figures]] = {
    "bare": bare,
    "naive": naive,
    "dramatiq": dramatiq,
    "one-by-one": one_by_one,
    "bulk": bulk,
    "one-account": one_account,
    "bulk-one-account": bulk_one_account,
    "http": http,
    "idle": idle,
    "in-flight": in_flight,
    "history": history,
}
"""Every lane by its name, in the order of a round."""


def _submitted(bench: Bench, lane: str, jobs: int, *order: str | int) -> Figures:
    with bench.mill.at_work(lane) as work:
        said = work.customer(*order)
    return {"jobs": jobs, **said, "jobs_s": jobs / said["seconds"]}


def _beside_raw(
    bench: Bench, lane: str, calls: int, concurrency: int, latency_s: float, *, workers: int = 1
) -> tuple[dict[str, float], int]:
    """Make the same calls with and without Creditmill; returns the figures, and how many of ours were in flight."""
    url = f"http://127.0.0.1:{free_port()}"
    with _simulator(bench.place, lane, url, latency_s) as (simulator, journal):
        raw = simulator.ask(_raw_program(url, calls, concurrency))
        with (
            bench.mill.at_work(
                lane, url=f"{url}/v1", generation=workers, generation_concurrency=str(concurrency // workers)
            ) as work,
            peak_of(lambda: memory_mb(work.programs.pids)) as memory,
        ):
            # Every process has made calls before any time is taken.
            work.customer("bulk", WARM_UP_CALLS * workers, ACCOUNTS, BULK_CALL)
            before = len(read_journal(journal))
            ours = work.customer("bulk", calls, ACCOUNTS, BULK_CALL)
        most = _most_in_flight([entry.event for entry in read_journal(journal)[before:]])
    figures = {
        "jobs": calls,
        **ours,
        "jobs_s": calls / ours["seconds"],
        "raw_jobs_s": calls / raw["seconds"],
        "memory_mb": memory.value,
    }
    return figures, most


@contextmanager
def _simulator(place: Place, lane: str, url: str, latency_s: float) -> Iterator[tuple[Running, Path]]:
    journal = place.folder / f"{lane}-journal.jsonl"
    journal.unlink(missing_ok=True)
    options = ["--port", url.rpartition(":")[2], "--latency", str(latency_s), "--latency-jitter", "0"]
    command = [sys.executable, "-m", "workers.simulator", *options, "--journal", str(journal)]
    with running(place.folder / "logs" / f"{lane}-simulator", [Program("simulator", command, ROOT, {})]) as started:
        yield started, journal


def _raw_program(url: str, calls: int, threads: int) -> Program:
    command = [
        sys.executable,
        "-P",
        str(PROGRAMS / "raw_calls.py"),
        f"{url}/v1",
        KEY_VARIABLE,
        str(calls),
        str(threads),
    ]
    return Program("raw", command, ROOT, {KEY_VARIABLE: SIMULATOR_KEY})


def _most_in_flight(events: list[str]) -> int:
    open_calls = most = 0
    for event in events:
        open_calls += {"received": 1, "answered": -1, "dropped": -1}.get(event, 0)
        most = max(most, open_calls)
    return most


def _cost_of_a_job(bench: Bench, database: str) -> dict[str, float]:
    jobs = bench.sizes.history
    before = _finished_and_pages(bench.place, database)
    with bench.mill.working_on(database) as work:
        # Every process has done its first work before any time is taken.
        work.customer("one", LEAST, ACCOUNTS)
        processes = [bench.place.postgres.pid or 0, *work.programs.pids]
        cpu_s = cpu_seconds(processes)
        said = work.customer("one", jobs, ACCOUNTS)
        cpu_s = cpu_seconds(processes) - cpu_s + said["cpu_s"]
        ticks = work.customer("ticks", TICKS)["times_ms"]
    # A session tells what it has touched when it ends, so all jobs of the workers' life are counted.
    finished, pages = (now - then for now, then in zip(_finished_and_pages(bench.place, database), before, strict=True))
    return {
        "job_ms": said["seconds"] / jobs * 1000,
        "cpu_ms": cpu_s / jobs * 1000,
        "pages": pages / finished,
        "tick_ms": percentile(ticks, 50),
    }


def _audit_histories(bench: Bench) -> None:
    for database in sorted(bench.histories):
        try:
            with bench.place.connection(database) as connection:
                audit_books(connection, database)
        except NotAudited as error:
            bench.notes.append(str(error))


def _finished_and_pages(place: Place, database: str) -> tuple[int, int]:
    with place.connection(database) as connection:
        pages = connection.scalar(text(PAGES)) or 0
        finished = connection.scalar(text("SELECT count(*) FROM generation_jobs WHERE finished_at IS NOT NULL"))
    return finished or 0, pages
