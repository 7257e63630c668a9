"""Prompts, keys and passwords: after every kind of job, none is found anywhere but where it belongs.

A key belongs in its encrypted column. A prompt belongs in `generation_jobs.params`, in what the model made of it
(`generation_results.content`), and in an app's own message for as long as that waits. A password belongs in the
environment of whoever connects with it. All programs log as much as they can: at DEBUG, the provider's library too.
"""

from __future__ import annotations

import base64
import os
import re
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx2
import psutil
import pytest
import redis
from sqlalchemy import create_engine, make_url, text

from billing.access import keys
from billing.webhooks import endpoints
from config.database import database_now, transaction
from config.integrations import GlobalIntegrationSettings, set_connection
from tasks import pipeline
from tasks.app import app
from tests.acceptance.disguises import disguises, found_in
from tests.acceptance.envelopes import PREFIX, Envelope, item, put, request, send
from tests.conftest import SECRET_KEY, emptied, fresh_database
from tests.factories import an_account, rows, the_account
from tests.system import System, running_system, wait_until
from tests.unit.test_architecture import ROOT
from workers.local.embedded.servers import Servers
from workers.simulator.faults import FAULTS

pytestmark = pytest.mark.own_system

KEY = f"sim-planted/{uuid4().hex}+1"
REFUSED_KEY = f"planted-for-images/{uuid4().hex}+1"
MARKER = f"marker{uuid4().hex}"
PASSWORD = f"pass{uuid4().hex}"
SECRETS = {
    "the key": KEY,
    "the refused key": REFUSED_KEY,
    "the prompt": MARKER,
    "the database's password": PASSWORD,
    "the secret key": SECRET_KEY,
}
"""What is looked for; the broker's password joins it."""
STEPS = {
    "generation.check_balance",
    "generation.reserve_credits",
    "generation.call_provider",
    "generation.settle_charge",
    "generation.refund_credits",
    "generation.ask_provider",
}
BASE64 = re.compile(r"[A-Za-z0-9+/]{24,}={0,2}")


@dataclass
class Sightings:
    """What was seen while the jobs ran: commands that Valkey was given, Celery events, answers of Flower."""

    commands: list[str] = field(default_factory=list)
    events: list[str] = field(default_factory=list)
    dumps: dict[str, str] = field(default_factory=dict)
    pages: dict[str, str] = field(default_factory=dict)
    command_lines: set[str] = field(default_factory=set)


@dataclass
class Ran:
    """The system after every kind of job, what was seen meanwhile, and the ids of the messages that apps sent."""

    system: System
    seen: Sightings
    jobs: dict[str, UUID]
    sent: list[str]


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory, servers: Servers, template: str) -> Iterator[Ran]:
    programs = ("billing", "generation", "beat", "flower", "api")
    home, broker_url = tmp_path_factory.mktemp("system"), emptied(servers)
    SECRETS["the broker's password"] = make_url(broker_url).password or ""
    with (
        pytest.MonkeyPatch.context() as patch,
        fresh_database(servers, template) as database_url,
    ):
        patch.setenv("OPENAI_LOG", "debug")
        # The server asks for none, so it takes any.
        with_password = make_url(database_url).set(password=PASSWORD).render_as_string(hide_password=False)
        yield from run(home, with_password, broker_url, programs)


def run(home: Path, database_url: str, broker_url: str, programs: Sequence[str]) -> Iterator[Ran]:
    """Run every kind of job, watched."""
    loud = {"log_level": "DEBUG", "text_call_s": "2"}
    with running_system(home, database_url, broker_url, programs=programs, **loud) as system:
        with transaction() as session:
            set_connection(session, "openai", api_key=KEY, base_url=system.provider_url)
        system.wait_for_workers("billing", "generation")
        wait_until(lambda: _page(f"{system.flower_url}/api/workers"), what="Flower")
        wait_until(lambda: _page(f"{system.api_url}/health"), what="the API")
        seen = Sightings()
        with watching(system, seen):
            jobs = run_every_kind(system)
            sent = send_every_kind(system, jobs)
            system.finished(list(jobs.values()))
            jobs["retried message"] = send_to_a_troubled_database(system, sent)
            jobs["refused key"] = run_with_refused_key(system)
            jobs["by the API"] = ask_the_api(system)
            wait_until(lambda: rows("SELECT count(*) FROM dead_messages")[0][0] >= 3, what="setting messages aside")
            look(system, seen)
        yield Ran(system, seen, jobs, sent)


def run_every_kind(system: System) -> dict[str, UUID]:
    """A job for each fault, text and image, and successes."""
    account_id = an_account(100_000)
    poor = an_account(1, name="Poor Bakery")
    params = {"max_output_tokens": 64, "system": f"Instructions {MARKER}"}
    jobs = {
        name: pipeline.submit(account_id, "clustering", {"prompt": f"{MARKER} [[simulate: {name}]]", **params}).job_id
        for name in FAULTS
    }
    jobs["text"] = pipeline.submit(account_id, "clustering", {"prompt": f"Say {MARKER}", **params}).job_id
    turns = [{"role": "user", "content": f"Say {MARKER}"}]
    jobs["turns"] = pipeline.submit(account_id, "clustering", {"messages": turns, "max_output_tokens": 64}).job_id
    jobs["image"] = pipeline.submit(account_id, "image_generation", {"prompt": f"Draw {MARKER}"}).job_id
    jobs["poor"] = pipeline.submit(poor, "clustering", {"prompt": f"Say {MARKER}", **params}).job_id
    return jobs


def send_every_kind(system: System, jobs: dict[str, UUID]) -> list[str]:
    """Messages from another app with the prompt in them: a good one, and some that cannot be understood."""
    account_id = an_account(1000, name="Another App")
    jobs["message"] = uuid4()
    good = {
        "account_id": account_id,
        "operation": "clustering",
        "params": {"prompt": f"Say {MARKER}", "max_output_tokens": 64},
        "job_id": str(jobs["message"]),
    }
    sent = [str(uuid4()) for _ in range(4)]
    send(
        system.environment,
        {"kwargs": good, "task_id": sent[0]},
        {"kwargs": {**good, "params": {"prompt": [MARKER]}}, "task_id": sent[1]},
        {"kwargs": good, "task": "generation.nonsense", "task_id": sent[2]},
    )
    broker_url = system.environment["BROKER_URL"]
    put(broker_url, "requests", item(request(good).encode()[:-9], message_id=sent[3]))
    return sent


def send_to_a_troubled_database(system: System, sent: list[str]) -> UUID:
    """A message whose first insert is cancelled, so that its task is tried again."""
    sent.append(str(uuid4()))
    job_id = uuid4()
    params = {"prompt": f"Say {MARKER}", "max_output_tokens": 64}
    kwargs = {"account_id": an_account(100), "operation": "clustering", "params": params, "job_id": str(job_id)}
    with insert_cancelled(system, "creditmill billing"):
        send(system.environment, {"kwargs": kwargs, "task_id": sent[-1]})
    assert system.finished([job_id])[job_id].state == "settled"
    return job_id


@contextmanager
def insert_cancelled(system: System, application: str) -> Iterator[None]:
    """Hold up what processes of this name insert into generation_jobs during the block, then cancel the statement.

    PostgreSQL shows the first thousand bytes of a statement, which a prompt may fill.
    """
    engine = create_engine(system.environment["DATABASE_URL"], isolation_level="AUTOCOMMIT")
    cancel = text(
        "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event_type = 'Lock' "
        "AND query LIKE '%WITH v AS (SELECT%' AND application_name = :name AND datname = current_database()"
    )
    with engine.connect() as operator, transaction() as session:
        session.execute(text("LOCK TABLE generation_jobs IN SHARE MODE"))
        yield
        wait_until(lambda: operator.execute(cancel, {"name": application}).all(), what="the blocked insert")
    engine.dispose()


def run_with_refused_key(system: System) -> UUID:
    """A job whose key the provider refuses, quoting it."""
    with transaction() as session:
        session.get_one(GlobalIntegrationSettings, 1).dalle_api_key = REFUSED_KEY
    job = pipeline.submit(an_account(100), "image_generation", {"prompt": f"Draw {MARKER}"})
    finished = system.finished([job.job_id])[job.job_id]
    assert (finished.state, finished.error_code) == ("refunded", "bad_credentials")
    return job.job_id


def ask_the_api(system: System) -> UUID:
    """A job by the API, and requests that are refused: a wrong key, keys where none belongs."""
    account_id = an_account(1000, name="App by HTTP")
    with transaction() as session:
        now = database_now(session)
        key, wrong = (keys.create(session, account_id, actor="anna", now=now).key for _ in range(2))
        hook = endpoints.create(session, account_id, f"https://127.0.0.1:9/{uuid4().hex}")
        keys.revoke(session, 2, now=now)
    SECRETS.update({"the API key": key, "the revoked API key": wrong, "the webhook's secret": hook.secret})
    body = {"operation": "clustering", "params": {"prompt": f"Say {MARKER}", "max_output_tokens": 64}}
    with httpx2.Client(base_url=f"{system.api_url}/api/v1", timeout=60) as api:
        mine, others = ({"Authorization": f"Bearer {each}", "Idempotency-Key": "1"} for each in (key, wrong))
        job = api.post("/jobs", json=body, headers=mine).raise_for_status().json()
        answers = [
            api.post("/jobs", json=body, headers=others),
            api.get(f"/balance?key={key}", headers=others),
            api.post("/jobs", json={**body, "params": {"prompt": [MARKER]}}, headers=mine),
            api.post("/jobs", json={**body, "model": MARKER[:20]}, headers=mine),
            api.put("/settings/openai.model", json={"value": KEY}, headers=mine),
            api.put("/integrations/openai/settings", json={"api_key": KEY, "temperature": 0.5}, headers=mine),
            api.get(f"/jobs/{job['job_id']}?wait=30", headers=mine),
            api.get("/webhooks/endpoints", headers=mine),
            api.get("/webhooks/messages", headers=mine),
        ]
    assert [answer.status_code for answer in answers] == [401, 401, 400, 400, 400, 200, 200, 200, 200]
    assert [leak for answer in answers for leak in leaks(answer.text + str(answer.headers))] == []
    return UUID(job["job_id"])


@contextmanager
def watching(system: System, seen: Sightings) -> Iterator[None]:
    """See every command that Valkey gets and every Celery event; look everywhere else again and again."""
    stop = threading.Event()
    threads = [
        threading.Thread(target=watch, args=(system, seen, stop), daemon=True)
        for watch in (_watch_commands, _watch_events, _watch_everything)
    ]
    for thread in threads:
        thread.start()
    wait_until(lambda: seen.commands and seen.events, what="the first command and event")
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join(timeout=20)
    assert not any(thread.is_alive() for thread in threads)


def _watch_commands(system: System, seen: Sightings, stop: threading.Event) -> None:
    with redis.Redis.from_url(system.environment["BROKER_URL"]) as client, client.monitor() as monitor:
        while not stop.is_set():
            seen.commands.append(monitor.next_command()["command"])


def _watch_events(system: System, seen: Sightings, stop: threading.Event) -> None:
    with app.connection_for_read() as connection:
        receiver = app.events.Receiver(connection, handlers={"*": lambda event: seen.events.append(repr(event))})
        threading.Thread(target=lambda: (stop.wait(), setattr(receiver, "should_stop", True)), daemon=True).start()
        receiver.capture(limit=None, timeout=None, wakeup=True)


def _watch_everything(system: System, seen: Sightings, stop: threading.Event) -> None:
    while not stop.is_set():
        look(system, seen)
        stop.wait(0.3)


def look(system: System, seen: Sightings) -> None:
    """Dump Valkey, ask Flower, read the command lines."""
    seen.dumps.update(dump(system.environment["BROKER_URL"]))
    for path in ("/api/tasks?limit=1000", "/api/workers", "/tasks", "/workers", "/broker", "/metrics"):
        seen.pages[f"{path} at {time.monotonic():.1f}"] = _page(system.flower_url + path)
    for process in psutil.process_iter(["cmdline"]):
        seen.command_lines.add(" ".join(process.info["cmdline"] or []))


def dump(broker_url: str) -> dict[str, str]:
    """Every key of every type of every database, by a name that tells one content from another."""
    found: dict[str, str] = {}
    read: dict[str, Callable[[redis.Redis, bytes], Any]] = {
        "string": lambda each, key: each.get(key),
        "list": lambda each, key: each.lrange(key, 0, -1),
        "hash": lambda each, key: each.hgetall(key),
        "set": lambda each, key: each.smembers(key),
        "zset": lambda each, key: each.zrange(key, 0, -1),
        "stream": lambda each, key: each.xrange(key),
    }
    for number in range(16):
        with redis.Redis.from_url(f"{broker_url.rsplit('/', 1)[0]}/{number}") as each:
            for key in each.scan_iter(count=1000):
                kind = each.type(key).decode()
                content = read[kind](each, key) if kind != "none" else None
                parts = content.items() if isinstance(content, dict) else content
                for part in parts if isinstance(content, (list, dict, set)) else [content]:
                    found[f"db {number} {key!r} {part!r}"] = f"{key!r} {part!r}"
    return found


def unfolded(text: str) -> str:
    """The text, and everything in it that is base64, as Celery's bodies are."""
    parts = [text]
    for match in BASE64.findall(text):
        try:
            parts.append(base64.b64decode(match, validate=True).decode())
        except ValueError:
            continue
    return "\n".join(parts)


def leaks(text: str) -> list[str]:
    """Which of the secrets the text shows."""
    whole = unfolded(text)
    return [f"{name}: {form}" for name, secret in SECRETS.items() for form in found_in(whole, secret)]


def _page(url: str) -> str:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.read().decode()
    except OSError:
        return ""


def _waits(ran: Ran, text: str) -> bool:
    """Whether this is an app's own message, in its queue or in the hands of the worker that took it."""
    return any(key in text for key in (PREFIX + "requests", PREFIX + "unacked")) and any(
        message_id in text for message_id in ran.sent
    )


def test_every_kind_of_job_came_to_the_end_that_it_should_have(ran):
    states = dict(rows("SELECT id, state FROM generation_jobs"))

    assert {name for name, job_id in ran.jobs.items() if states[job_id] == "settled"} == {
        *("slow", "missing_usage", "fewer_images", "text", "turns", "image", "message", "retried message"),
        "by the API",
    }
    assert {code for (code,) in rows("SELECT code FROM dead_messages")} == {
        "invalid_params",
        "unknown_task",
        "undecodable",
    }


def test_no_log_shows_a_secret(ran):
    logs = ran.system.logs()

    assert {"billing.log", "generation.log", "beat.log", "flower.log", "api.log"} <= set(logs)
    assert {name: leaks(content) for name, content in logs.items() if leaks(content)} == {}


def test_the_programs_logged_at_debug(ran):
    levels = {name: ran.system.process(name).environ()["CREDITMILL_LOG_LEVEL"] for name in ("billing", "generation")}

    assert levels == {"billing": "DEBUG", "generation": "DEBUG"}
    assert ran.system.process("generation").environ()["OPENAI_LOG"] == "debug"


ADDRESSES = {"DATABASE_URL", "BROKER_URL", "CREDITMILL_SECRET_KEY"}


@pytest.mark.parametrize(
    ("program", "needs"),
    [
        ("simulator", set()),
        ("flower", {"BROKER_URL"}),
        ("billing", ADDRESSES),
        ("generation", ADDRESSES),
        ("beat", ADDRESSES),
        ("api", ADDRESSES),
    ],
)
def test_each_program_has_the_addresses_and_keys_that_it_needs(ran, program, needs):
    variables = ran.system.process(program).environ()

    assert variables.keys() & ADDRESSES == needs
    assert set(variables) >= {"PATH", "HOME"}
    if not needs:
        assert leaks(str(variables)) == []
        assert [name for name in variables if name.startswith("CREDITMILL_")] == []


def test_no_process_has_a_providers_key_in_its_environment(ran):
    processes = [ran.system.process(name) for name in ("billing", "generation", "beat", "flower", "api")]
    whole = [*processes, *(child for each in processes for child in each.children(recursive=True))]

    assert len(whole) > 4
    for process in whole:
        assert [leak for leak in leaks(str(process.environ())) if leak.startswith(("the key", "the refused key"))] == []


@pytest.mark.parametrize("program", ["billing", "generation"])
def test_what_a_program_starts_has_no_more_than_it_has(ran, program):
    for child in ran.system.process(program).children(recursive=True):
        assert child.environ().keys() <= ran.system.process(program).environ().keys() | {"FORKED_BY_MULTIPROCESSING"}


@pytest.mark.parametrize(
    "command",
    [
        *("creditmill doctor", "creditmill doctor --json", "creditmill metrics", "creditmill integrations show"),
        *("creditmill integrations test openai", "creditmill settings show", "creditmill settings history --json"),
        *("creditmill jobs list", "creditmill jobs dead", "creditmill jobs unknown", "creditmill accounts list"),
        *("creditmill keys list", "creditmill webhooks list", "creditmill webhooks messages --json"),
        *("creditmill jobs show {job}", "creditmill jobs show {refused} --json", "creditmill audit"),
        *("celery -A tasks.app report", "celery -A tasks.app inspect conf", "celery -A tasks.app inspect stats"),
        *("celery -A tasks.app inspect active", "celery -A tasks.app inspect reserved", "celery -A tasks.app status"),
    ],
)
def test_no_command_of_an_operator_shows_a_secret(ran, command):
    words = command.format(job=ran.jobs["text"], refused=ran.jobs["refused key"]).split()

    done = subprocess.run(
        [str(Path(sys.executable).with_name(words[0])), *words[1:]],
        cwd=ROOT,
        env={**os.environ, **ran.system.environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.stdout
    assert leaks(done.stdout + done.stderr) == []


def test_no_file_of_the_instance_shows_a_secret(ran):
    files = [path for path in ran.system.home.rglob("*") if path.is_file()]

    assert [path.name for path in files if leaks(path.read_text(errors="replace"))] == []


def test_valkey_never_held_a_secret_but_in_an_apps_own_message(ran):
    assert [name for name, content in ran.seen.dumps.items() if leaks(content) and not _waits(ran, content)] == []


def test_no_command_brought_valkey_a_secret_but_in_an_apps_own_message(ran):
    assert any(MARKER in unfolded(command) for command in ran.seen.commands), "the watch sees what it looks for"
    assert [command for command in ran.seen.commands if leaks(command) and not _waits(ran, command)] == []


def test_nothing_of_an_apps_message_stays_behind(ran):
    after = dump(ran.system.environment["BROKER_URL"])

    assert [name for name, content in after.items() if leaks(content)] == []


def test_no_event_shows_a_secret(ran):
    assert any("task-received" in event and "generation.submit" in event for event in ran.seen.events)
    assert [event for event in ran.seen.events if leaks(event)] == []


def test_flower_shows_no_secret(ran):
    tasks = ran.system.flower("/api/tasks?limit=1000")
    pages = {f"/{kind}/{task_id}": "" for task_id in tasks for kind in ("task", "api/task/info")}
    workers = ran.system.flower("/api/workers?refresh=1")
    pages |= {f"/worker/{name}": "" for name in workers}
    pages = {path: _page(ran.system.flower_url + path) for path in pages} | ran.seen.pages | {"all": str(workers)}

    assert {task["name"] for task in tasks.values()} >= STEPS
    assert sum(bool(page) for path, page in pages.items() if path.startswith("/task/")) == len(tasks)
    assert "broker_url" in str(pages), "a worker's page shows its settings"
    assert [path for path, page in pages.items() if leaks(page)] == []


def test_no_command_line_shows_a_secret(ran):
    shown = "\n".join(ran.seen.command_lines)

    assert "worker generation" in shown, "the watch sees our processes"
    assert leaks(shown) == []


def test_the_database_holds_secrets_only_where_they_belong(ran):
    columns = rows(
        "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = 'public' ORDER BY 1, 2"
    )
    forms = {(name, form): written for name, secret in SECRETS.items() for form, written in disguises(secret).items()}
    held = """SELECT form FROM unnest(CAST(:forms AS text[]), CAST(:written AS text[])) f(form, written)
           WHERE EXISTS (SELECT FROM "{}" WHERE position(written IN "{}"::text) > 0)"""
    given = {"forms": [f"{name}: {form}" for name, form in forms], "written": list(forms.values())}
    found = {
        (form, f"{table}.{column}")
        for table, column in columns
        for (form,) in rows(held.format(table, column), **given)
    }

    assert len(columns) > 200
    belongs = {("the prompt: clear", "generation_jobs.params"), ("the prompt: URL", "generation_jobs.params")}
    assert belongs <= found
    assert {where for _, where in found} <= {"generation_jobs.params", "generation_results.content"}
    assert {form.partition(":")[0] for form, _ in found} == {"the prompt"}
    assert rows("SELECT openai_api_key, dalle_api_key FROM global_integration_settings") != [(None, None)]


def test_the_servers_logs_show_no_secret_even_where_a_statement_was_cancelled(ran):
    logs = server_logs(ran.system.environment["BROKER_URL"])

    assert {Path(name).name for name in logs} == {"postgresql.log", "valkey.log"}
    assert "canceling statement due to user request" in "".join(logs.values())
    assert {name: leaks(content) for name, content in logs.items() if leaks(content)} == {}


def server_logs(broker_url: str) -> dict[str, str]:
    """The logs of PostgreSQL and of Valkey: every file in their folders that is named so."""
    with redis.Redis.from_url(broker_url) as client:
        folders = [client.config_get("dir")["dir"], Path(rows("SHOW data_directory")[0][0]).parent]
    found = [path for folder in folders for path in Path(folder).rglob("*.log")]
    return {str(path): path.read_text(errors="replace") for path in found}


def test_messages_between_steps_carry_ids_and_nothing_else(ran):
    pushed = [command.split(" ", 2) for command in ran.seen.commands if command.startswith("LPUSH " + PREFIX)]
    queues = {name for _, name, _ in pushed}
    steps = [
        Envelope.read(raw) for _, name, raw in pushed if name in {PREFIX + q for q in ("billing", "text", "image")}
    ]

    assert {step.task for step in steps} == STEPS
    assert {PREFIX + "text", PREFIX + "image", PREFIX + "billing"} <= queues
    for step in steps:
        (ids,), kwargs, rest = step.parts
        assert [str(UUID(job_id)) for job_id in ids] == ids, step
        # A look for whatever waits names no job.
        assert ids or step.task == "generation.check_balance", step
        assert kwargs == {}
        assert {name: rest[name] for name in ("callbacks", "errbacks", "chord")} == dict.fromkeys(
            ("callbacks", "errbacks", "chord")
        )
        for following in rest["chain"] or []:
            assert following["task"] in STEPS
            assert (following["args"], following["kwargs"]) == ([], {})


def test_the_books_balance(ran):
    assert ran.system.findings() == []
    assert the_account(1).reserved == 0
