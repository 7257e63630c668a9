"""Is everything well? Each check is one sentence; an unhealthy one says what to do."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

import redis
from kombu.exceptions import KombuError
from sqlalchemy.exc import OperationalError

from billing import migrating
from billing.catalog import current, margins
from billing.jobs import call_checks, recovery
from billing.reports import audit, overrun
from billing.upkeep import dead_letters, periodic_runs
from billing.upkeep.periodic_runs import Run
from billing.webhooks import deliveries
from config import database, tenants
from config.broker import broker_client
from config.database import database_now, transaction, utc_now
from config.integrations import configured_providers, keys
from config.providers import KnownProvider
from config.settings import ConfigurationError, Settings
from tasks.app import app
from workers import bootstrap
from workers.health.broker import messages_by_queue, queue_names

CLOCK_S = 2.0
"""How far this machine's clock may be from the database's, in seconds."""
WORKERS = ("billing", "generation")
MISSED = 3
SLACK = timedelta(minutes=1)


@dataclass(frozen=True)
class Check:
    """One thing that was looked at."""

    name: str
    healthy: bool
    sentence: str


def examine() -> list[Check]:
    """Look at everything that a running system needs; a check that depends on a failed one is left out."""
    try:
        settings = bootstrap.publishing_command("doctor")
    except ConfigurationError as error:
        return [Check("settings", False, str(error))]
    checks = [Check("settings", True, "The required settings are set.")]
    checks += _database()
    checks += _broker(settings)
    return checks


def _database() -> list[Check]:
    try:
        missing = migrating.pending(database.engine())
    except OperationalError:
        return [Check("database", False, "PostgreSQL does not answer: start it, or correct DATABASE_URL.")]
    checks = [Check("database", True, "PostgreSQL answers.")]
    if missing:
        return [*checks, Check("migrations", False, f"Missing: {', '.join(missing)}. Run `creditmill migrate`.")]
    return [
        *checks,
        Check("migrations", True, "The schema is up to date."),
        _clock(),
        *_keys(),
        _tenants(),
        _models(),
        _overrun(),
        _set_aside(),
        _webhooks(),
        _overdue(),
        _periodic(),
        _books(),
    ]


def _clock() -> Check:
    before = utc_now()
    with transaction() as session:
        theirs = database_now(session)
    middle = before + (utc_now() - before) / 2
    apart = abs((theirs - middle).total_seconds())
    if apart > CLOCK_S:
        return Check("clock", False, f"This machine and the database are {apart:.1f} s apart: set both by NTP.")
    return Check("clock", True, "This machine's clock agrees with the database's.")


def _keys() -> list[Check]:
    try:
        with transaction() as session:
            found, stored = configured_providers(session), keys(session)
            wanted = {model.provider for model in current.read(session).active_models()}
    except ConfigurationError as error:
        return [Check("keys", False, str(error))]
    if not found:
        return [Check("keys", False, "No provider has a key: run `creditmill integrations set openai`.")]
    known = ", ".join(
        name + (f" at {found[name]}" if found[name] else "") for name in map(str, KnownProvider) if name in found
    )
    sentence = f"Can be called: {known}."
    if missing := sorted(wanted - set(found)):
        sentence += f" Active models have no key of {', '.join(missing)}: run `creditmill integrations set`."
    if older := [key.name for key in stored if not key.is_of_first_key]:
        sentence += f" An older secret key encrypted that of {', '.join(older)}: run `creditmill integrations rotate`."
    return [Check("keys", True, sentence)]


def _tenants() -> Check:
    with transaction() as session:
        problems = tenants.problems(session)
    return Check("tenants", not problems, " ".join(problems) or "An account's reads see no other account's rows.")


def _set_aside() -> Check:
    with transaction() as session:
        count = dead_letters.count(session)
    were = "message was" if count == 1 else "messages were"
    sentence = f"{count} {were} set aside: run `creditmill jobs dead`." if count else "No message was set aside."
    return Check("messages", True, sentence)


def _webhooks() -> Check:
    with transaction() as session:
        late, dead = deliveries.late_and_dead(session, now=database_now(session))
    given_up = f" {dead:,} were given up: see `creditmill webhooks messages --state dead`." if dead else ""
    if late:
        minutes = deliveries.LATE.seconds // 60
        sentence = f"{late:,} webhooks wait for longer than {minutes} minutes, as their endpoints fail."
        return Check("webhooks", False, f"{sentence} See `creditmill webhooks messages`.{given_up}")
    return Check("webhooks", True, f"No webhook waits for long.{given_up}")


def _models() -> Check:
    with transaction() as session:
        at = current.moment(session)
        near = [at.catalog.deprecation_warning(model, today=at.today) for model in at.catalog.active_models()]
        poor = sum(margin.problem is not None for margin in margins.check(at.catalog))
        differing = [found.model for found in call_checks.cost_differences(session, now=at.now)]
        orphaned = at.catalog.types_without_default()
    warnings = [warning for warning in near if warning is not None]
    warnings += [
        f"No {kind} model is the default: run `creditmill models set NAME is_default=yes`." for kind in orphaned
    ]
    if poor:
        warnings.append(
            f"{poor} {'price earns' if poor == 1 else 'prices earn'} too little: run `creditmill models check`."
        )
    if differing:
        names = ", ".join(differing)
        warnings.append(f"The provider reports other costs than ours for {names}: run `creditmill models check`.")
    return Check("models", not warnings, " ".join(warnings) or "Every model is offered, and every price earns.")


def _overrun() -> Check:
    with transaction() as session:
        found = overrun.by_model(session, now=database_now(session))
    much = [each for each in found if each.is_much]
    if much:
        told = ", ".join(f"{each.model} {each.credits_overrun:,}" for each in much)
        return Check(
            "overrun",
            False,
            f"Jobs of the last 30 days used more credits than were held, which is our loss: {told}. "
            "Check `tokenizer` and `max_output_tokens` with `creditmill models show`.",
        )
    total = sum(each.credits_overrun for each in found)
    if not total:
        return Check("overrun", True, "No job of the last 30 days used more than was held.")
    were = "credit was" if total == 1 else "credits were"
    return Check("overrun", True, f"In the last 30 days, {total:,} {were} used beyond what was held.")


def _overdue() -> Check:
    with transaction() as session:
        count, since = recovery.overdue(session, now=database_now(session))
    if not count:
        return Check("jobs", True, "No job waits longer than it should.")
    waits = "job waits" if count == 1 else "jobs wait"
    return Check(
        "jobs",
        False,
        f"{count} {waits} to be looked at since {since:%Y-%m-%d %H:%M} UTC: are workers and beat running?",
    )


def _periodic() -> Check:
    """When each periodic task last succeeded; one that misses three of its ticks is overdue."""
    with transaction() as session:
        now = database_now(session)
        runs = periodic_runs.latest(session)
    if not runs:
        return Check("periodic", True, "No periodic task has run yet.")
    first = min(run.first_at for run in runs.values())
    told, problems = [], []
    for name, entry in sorted(app.conf.beat_schedule.items()):
        run = runs.get(name)
        last = None if run is None else run.finished_at
        told.append(f"{name} {_minute(last) if last else 'never'}")
        problems += _of_task(name, run, first=first, every=timedelta(seconds=entry["schedule"]), now=now)
    if problems:
        return Check("periodic", False, " ".join(problems))
    return Check("periodic", True, f"Periodic tasks last succeeded: {', '.join(told)}.")


def _of_task(name: str, run: Run | None, *, first: datetime, every: timedelta, now: datetime) -> list[str]:
    """What is wrong with one periodic task, whose `run` is its last one; `first` is the first run of any."""
    last = None if run is None else run.finished_at
    problems = []
    if last is not None and last > now + SLACK:
        # Its next run will say when it was; how long ago this one was, nobody can tell.
        problems.append(
            f"{name} last succeeded at {_minute(last)}, which is yet to come: the database's clock was set back, and "
            "it has not run since. Check the clock; are beat and the billing worker running?"
        )
    elif now - (last or first) > MISSED * every + SLACK:
        since = f"it last succeeded at {_minute(last)}" if last else f"it has not succeeded since {_minute(first)}"
        problems.append(f"{name} is overdue, {since}: are beat and the billing worker running?")
    if run is not None and run.blocked:
        rows = "row" if run.blocked == 1 else "rows"
        problems.append(f"{name} could not work on {run.blocked:,} {rows}: the log of the billing worker says why.")
    return problems


def _minute(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M} UTC"


def _books() -> Check:
    with transaction() as session:
        last = audit.last_run(session)
    if last is None:
        return Check("books", True, "The periodic audit has not run yet.")
    when = _minute(last.ran_at)
    if last.findings:
        problems = "problem" if last.findings == 1 else "problems"
        return Check("books", False, f"The audit of {when} found {last.findings} {problems}: run `creditmill audit`.")
    return Check("books", True, f"The books balanced at {when}.")


def _broker(settings: Settings) -> list[Check]:
    url = settings.broker_url.get_secret_value()
    try:
        policy = _eviction_policy(url)
        behind = [_queues(url), *_workers()]
    except (redis.RedisError, KombuError):
        return [Check("broker", False, "Redis does not answer: start it, or correct BROKER_URL.")]
    checks = [Check("broker", True, "Redis answers.")]
    if policy not in (None, "noeviction"):
        sentence = f"Redis may evict queued messages ({policy}): set its maxmemory-policy to noeviction."
        checks.append(Check("eviction", False, sentence))
    return [*checks, _redelivery(settings), *behind]


def _redelivery(settings: Settings) -> Check:
    longest = max(settings.lease_s(kind) for kind in ("text", "image"))
    if settings.visibility_timeout_s <= longest:
        sentence = (
            f"Messages of running calls are delivered again: set CREDITMILL_VISIBILITY_TIMEOUT_S above {longest:g}."
        )
        return Check("redelivery", False, sentence)
    return Check("redelivery", True, "A message is delivered again only when its call has long ended.")


def _queues(url: str) -> Check:
    with broker_client(url) as client:
        waiting = messages_by_queue(client, queue_names())
    filled = {name: length for name, length in waiting.items() if length}
    told = ", ".join(f"{name} {length:,}" for name, length in filled.items())
    return Check("queues", True, f"Messages wait in queues: {told}." if filled else "No message waits in a queue.")


def _eviction_policy(url: str) -> str | None:
    with broker_client(url) as client:
        client.ping()
        try:
            return client.config_get("maxmemory-policy").get("maxmemory-policy")
        except redis.ResponseError:
            # Managed servers forbid CONFIG; they answer all the same.
            return None


def _workers() -> list[Check]:
    answers = app.control.ping(timeout=2.0)
    names = {name.split("-")[0] for answer in answers for name in answer}
    return [
        Check(f"{kind}", True, f"The {kind} worker answers.")
        if kind in names
        else Check(f"{kind}", False, f"No {kind} worker answers: run `creditmill worker {kind}`, or `creditmill up`.")
        for kind in WORKERS
    ]
