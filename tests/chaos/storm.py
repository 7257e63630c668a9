"""A storm: faults at random from a seed over a running system; then it is healed, and everything is held to account."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import click
import redis

from config.database import DATABASE_TROUBLE
from tests.chaos.faults import FAULTS, NOT_NOW, Fault, NotNow
from tests.chaos.storm_traffic import Ledger, Traffic, open_accounts, orders
from tests.chaos.storm_verdict import Left, Verdict, judge, story, unfinished
from tests.chaos.storm_watch import Watch
from tests.chaos.storm_world import World, running_world
from workers.local.embedded.server import EmbeddedServerError

HANDS = 5
"""Faults that may go on at once."""
IN_VAIN = 5
"""After so many faults in turn that found nothing to harm, others come too: the queues of an idle system are empty, and
it gets no more work before a fault happens."""

HEAL_S = 60
LONGEST_WATCH_S = 240
"""How long after healing the storm is watched, to say how late the late ones were."""


@dataclass(frozen=True)
class Plan:
    """How big a storm is: faults that must happen, jobs, and the mean time between two faults in seconds."""

    seed: int
    faults: int
    jobs: int
    every_s: float
    # Each fault as often as its weight says, or each once.
    weighted: bool


@dataclass(frozen=True)
class Injected:
    """One fault as it happened: when (seconds from the start), for how long, to what."""

    at_s: float
    took_s: float
    name: str
    what: str


@dataclass
class Report:
    """What a storm came to."""

    plan: Plan
    home: Path
    ledger: Ledger = field(default_factory=Ledger)
    injected: list[Injected] = field(default_factory=list)
    # Faults that found nothing to harm, and what went wrong in the harness itself.
    missed: Counter[str] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)
    storm_s: float = 0.0
    # Seconds from healing until every job had ended, and until no message was left either; None for never.
    jobs_ended_s: float | None = None
    quiet_s: float | None = None
    going_on: dict[str, int] = field(default_factory=dict)
    verdict: Verdict = field(default_factory=Verdict)
    audits: tuple[int, int] = (0, 0)
    findings: list[str] = field(default_factory=list)
    peak_mb: dict[str, float] = field(default_factory=dict)
    last_mb: dict[str, float] = field(default_factory=dict)
    states: Counter[str] = field(default_factory=Counter)
    stories: list[str] = field(default_factory=list)
    provider_faults: set[str] = field(default_factory=set)
    dead: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    # How long the slowest job took, in seconds, and how often the unluckiest one was published again in one state.
    longest_s: float = 0.0
    most_republished: int = 0

    def counts(self) -> Counter[str]:
        """How often each fault happened."""
        return Counter(each.name for each in self.injected)

    def progress(self) -> float:
        """How much of the storm is over, from 0 to 1."""
        return len(self.injected) / self.plan.faults

    def text(self) -> str:
        """The whole report, to be read."""
        lines = [
            f"storm: seed {self.plan.seed}, {len(self.injected)} faults in {self.storm_s:.0f} s over "
            f"{len(self.ledger.acknowledged)} acknowledged requests; logs in {self.home}",
            *(f"  {count:4} {name}" for name, count in sorted(self.counts().items())),
            f"did not happen: {dict(self.missed)}",
            f"jobs: {dict(sorted(self.states.items()))}",
            f"submitted: {dict(self.ledger.ways)}; errors met by apps: {dict(self.ledger.met)}",
            f"lost {len(self.verdict.lost)}, duplicated {len(self.verdict.duplicated)}, "
            f"drift {len(self.verdict.drift)}, wrongly charged {len(self.verdict.wrongly_charged)}, "
            f"unexplained {len(self.verdict.unexplained)}, complaints {len(self.ledger.complaints)}",
            f"audits: {self.audits[0]} clean, {self.audits[1]} impossible, findings {len(self.findings)}",
            f"healed: every job ended after {_seconds(self.jobs_ended_s)}, no message left after "
            f"{_seconds(self.quiet_s)}, still going on: {self.going_on}",
            f"slowest job: {self.longest_s:.0f} s; most often republished in one state: {self.most_republished} times",
            f"dead messages: {dict(self.dead)}",
            f"memory in MB: peak {_rounded(self.peak_mb)}, last {_rounded(self.last_mb)}",
        ]
        for name, found in self.verdict.wrong().items():
            lines += [f"{name}:", *(f"  {each}" for each in found[:40])]
        lines += [f"complaint: {each}" for each in self.ledger.complaints[:40]]
        lines += [f"finding: {each}" for each in self.findings[:40]]
        lines += [f"broken: {each}" for each in self.broken[:40]]
        return "\n".join(lines + self.stories[:20])


def ride_out(home: Path, plan: Plan) -> Report:
    """Run a system, let the storm go over it, heal it, and judge what is left."""
    report = Report(plan, home)
    chance = Random(plan.seed)
    with running_world(home, plan.seed) as world:
        report.ledger.opening = open_accounts()
        given = list(orders(list(report.ledger.opening), plan.jobs, chance))
        traffic = Traffic(world, report.ledger, given, progress=report.progress, seed=plan.seed)
        watch = Watch(world)
        watch.start()
        try:
            traffic.start()
            _Storm(world, plan, report).blow()
            world.heal()
            _wait_for_quiet(world, traffic, report)
        finally:
            traffic.stop()
            watch.stop()
        _conclude(world, watch, report)
    (home / "report.txt").write_text(report.text())
    (home / "faults.txt").write_text(
        "".join(f"{each.at_s:8.2f} {each.took_s:6.2f} {each.name}: {each.what}\n" for each in report.injected)
    )
    return report


class _Storm:
    """Injects faults, several at once but never two that need the same thing to themselves."""

    def __init__(self, world: World, plan: Plan, report: Report) -> None:
        self._world = world
        self._plan = plan
        self._report = report
        self._chance = Random(f"faults {plan.seed}")
        self._busy: set[str] = set()
        self._lock = threading.Lock()
        self._began = 0.0
        self._deck: list[Fault] = []
        self._in_vain = 0

    def blow(self) -> None:
        """Go on until enough faults have happened."""
        self._began = time.monotonic()
        running: list[Future[None]] = []
        with ThreadPoolExecutor(HANDS) as hands:
            while not self._is_over():
                time.sleep(min(self._chance.expovariate(1 / self._plan.every_s), 3 * self._plan.every_s))
                self._deal()
                fault = self._take()
                if fault is not None:
                    running.append(hands.submit(self._inject, fault, Random(self._chance.getrandbits(64))))
        for each in running:
            each.result()
        self._report.storm_s = time.monotonic() - self._began

    def _is_over(self) -> bool:
        """Whether enough faults have happened, and each kind of them; or it takes far too long."""
        enough = len(self._report.injected) >= self._plan.faults and set(self._report.counts()) == set(kinds())
        too_long = time.monotonic() - self._began > 3 * self._plan.every_s * self._plan.faults
        return enough or too_long or bool(self._report.broken)

    def _deal(self) -> None:
        with self._lock:
            if not self._deck or self._in_vain >= IN_VAIN:
                self._deck += self._shuffled()
                self._in_vain = 0

    def _shuffled(self) -> list[Fault]:
        cards = [fault for fault in FAULTS for _ in range(fault.weight if self._plan.weighted else 1)]
        return self._chance.sample(cards, len(cards))

    def _take(self) -> Fault | None:
        """The first fault of the deck whose surroundings nobody else harms just now."""
        with self._lock:
            for number, fault in enumerate(self._deck):
                if fault.alone_with not in self._busy:
                    self._busy.add(fault.alone_with)
                    return self._deck.pop(number)
        return None

    def _inject(self, fault: Fault, chance: Random) -> None:
        at = time.monotonic()
        try:
            what = fault.harm(self._world, chance)
        except (NotNow, *NOT_NOW) as error:
            self._report.missed[f"{fault.name} ({type(error).__name__})"] += 1
            # Its turn comes again.
            with self._lock:
                self._deck.append(fault)
                self._in_vain += 1
        except (EmbeddedServerError, AssertionError, OSError) as error:
            self._report.broken.append(f"{fault.name}: {type(error).__name__}: {error}")
        else:
            self._report.injected.append(Injected(at - self._began, time.monotonic() - at, fault.name, what))
            self._in_vain = 0
        finally:
            with self._lock:
                self._busy.discard(fault.alone_with)


def _wait_for_quiet(world: World, traffic: Traffic, report: Report) -> None:
    """Wait until every request is acknowledged, every job has ended and no message is left, and note when."""
    began = time.monotonic()
    while (passed := time.monotonic() - began) < LONGEST_WATCH_S:
        try:
            report.going_on = unfinished(world)
        except (redis.RedisError, *DATABASE_TROUBLE):
            report.going_on = {"servers away": 1}
        if not traffic.all_acknowledged():
            report.going_on["not acknowledged"] = traffic.wanted - len(report.ledger.acknowledged)
        if not any(_is_of_jobs(name) for name in report.going_on) and report.jobs_ended_s is None:
            report.jobs_ended_s = passed
        if not report.going_on:
            report.quiet_s = passed
            return
        time.sleep(0.2)


def _is_of_jobs(name: str) -> bool:
    return not name.startswith(("queue ", "unacked"))


def _conclude(world: World, watch: Watch, report: Report) -> None:
    watch.auditor.look()
    watch.scales.look()
    left = Left.read(world)
    report.verdict = judge(left, report.ledger)
    report.states = Counter(f"{job['state']} {job['error_code'] or ''}".strip() for job in left.jobs.values())
    report.dead, report.provider_faults = left.dead, left.provider_faults()
    lives = [job["finished_at"] - job["created_at"] for job in left.jobs.values() if job["finished_at"]]
    report.longest_s = max((life.total_seconds() for life in lives), default=0.0)
    report.most_republished = max((job["republished"] for job in left.jobs.values()), default=0)
    report.audits = (watch.auditor.clean, watch.auditor.missed)
    report.findings = [f"{at:%H:%M:%S} {each}" for at, each in watch.auditor.findings.values()]
    report.broken += [watch.auditor.broken] if watch.auditor.broken else []
    report.peak_mb, report.last_mb = dict(watch.scales.peak_mb), watch.scales.last_mb
    report.stories = [story(left, job_id) for job_id in sorted(report.verdict.suspects)]


def _seconds(value: float | None) -> str:
    return "never" if value is None else f"{value:.1f} s"


def _rounded(values: dict[str, float]) -> dict[str, int]:
    return {name: round(value) for name, value in sorted(values.items())}


def show(report: Report) -> None:
    """Print the report."""
    click.echo(f"\n{report.text()}")


def kinds() -> Sequence[str]:
    """The names of all faults."""
    return [fault.name for fault in FAULTS]
