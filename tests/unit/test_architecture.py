"""The shape of the code: imports go one way and do nothing, modules stay small, queues stay apart."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import celeryconfig
from tasks.app import app

ROOT = Path(celeryconfig.__file__).parent
PACKAGES = ("workers", "tasks", "billing", "config")
LINES_MAX = 400


def sources() -> list[Path]:
    found = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
    assert len(found) > 50
    return [*found, ROOT / "celeryconfig.py"]


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def in_a_fresh_process(program: str) -> dict[str, object]:
    """What the program prints as JSON, run with an empty environment and without a thing imported."""
    done = subprocess.run(
        [sys.executable, "-B", "-c", textwrap.dedent(program)],
        cwd=ROOT,
        env={},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return json.loads(done.stdout)


def test_imports_go_one_way():
    linter = Path(sys.executable).with_name("lint-imports")

    done = subprocess.run([linter, "--no-cache"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "5 kept, 0 broken" in done.stdout


def test_importing_any_module_has_no_effect():
    # Alembic runs its env.py as a script: importing it is using it.
    modules = [module_of(path) for path in sources() if path.name != "env.py"]

    seen = in_a_fresh_process(f"""
        import gc, importlib, json, logging, os, signal, sys, threading

        effects = []
        FORBIDDEN = {{
            "socket.connect", "socket.bind", "socket.getaddrinfo", "socket.gethostbyname", "subprocess.Popen",
            "os.fork", "os.posix_spawn", "os.exec", "os.system", "os.mkdir", "os.remove", "os.rename", "os.putenv",
        }}

        def watch(event, args):
            if event in FORBIDDEN:
                effects.append([event, repr(args)[:200]])
            if event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                effects.append(["write", repr(args)[:200]])

        # matplotlib makes its folder for settings when it is imported: only drawing a chart imports it.
        import matplotlib.figure

        sys.addaudithook(watch)
        environment = dict(os.environ)
        interrupted = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
        for name in {modules!r}:
            importlib.import_module(name)

        from openai import OpenAI
        from redis import Redis
        from sqlalchemy import Engine
        from celery import current_app
        from config import database, secrets
        from tasks import runtime

        print(json.dumps({{
            "effects": effects,
            "threads": [thread.name for thread in threading.enumerate()],
            "made": sorted(
                type(thing).__name__ for thing in gc.get_objects() if isinstance(thing, Engine | OpenAI | Redis)
            ),
            "environment_changed": environment != dict(os.environ),
            "signals_changed": interrupted != (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)),
            "log_handlers": len(logging.getLogger().handlers),
            "connected": database._sessions is not None,
            "keys": secrets._box is not None,
        }}))
        """)

    assert seen == {
        "effects": [],
        "threads": ["MainThread"],
        "made": [],
        "environment_changed": False,
        "signals_changed": False,
        "log_handlers": 0,
        "connected": False,
        "keys": False,
    }


def test_whoever_imports_queries_first_needs_no_other_import():
    modules = [name for path in sources() if (name := module_of(path)).endswith("_queries")]

    failed = in_a_fresh_process(f"""
        import importlib, json, os, sys
        import sqlalchemy.dialects.postgresql, sqlalchemy.orm, config.database

        def imports(name):
            child = os.fork()
            if child == 0:
                try:
                    importlib.import_module(name)
                finally:
                    os._exit(name not in sys.modules)
            return os.waitpid(child, 0)[1] == 0

        print(json.dumps([name for name in {modules!r} if not imports(name)]))
        """)

    assert len(modules) > 5
    assert failed == []


@pytest.mark.parametrize("module", ["workers.cli", "workers.bootstrap", "tasks.generation", "tasks.pipeline"])
def test_heavy_libraries_are_imported_only_where_they_are_used(module):
    imported = in_a_fresh_process(f"""
        import json, sys
        import {module}
        heavy = {{"openai", "anthropic", "httpx2", "aiohttp", "matplotlib", "numpy"}}
        print(json.dumps({{"heavy": sorted(heavy & set(sys.modules))}}))
        """)

    assert imported == {"heavy": []}


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_is_no_longer_than_one_can_keep_in_mind(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= LINES_MAX


# --- The queues and the schedule ---


def test_the_queues_are_those_of_the_contract():
    assert [queue.name for queue in celeryconfig.task_queues] == [
        "requests",
        "billing",
        "text",
        "image",
        "embedding",
        "periodic",
        "webhooks",
    ]


def test_each_queue_has_an_exchange_of_its_own():
    # Queues that share one get copies of each other's messages when it is declared anew (kombu's Redis bindings).
    assert [(queue.exchange.name, queue.exchange.type, queue.routing_key) for queue in celeryconfig.task_queues] == [
        (queue.name, "direct", queue.name) for queue in celeryconfig.task_queues
    ]


def test_the_app_runs_with_these_settings():
    assert [queue.name for queue in app.conf.task_queues] == [queue.name for queue in celeryconfig.task_queues]
    assert list(app.conf.accept_content) == ["json"]
    assert app.conf.task_acks_late is True
    assert app.conf.task_ignore_result is True


def test_every_task_has_a_route_to_a_queue_that_exists():
    app.loader.import_default_modules()
    ours = {name for name in app.tasks if not name.startswith("celery.")}
    queues = {queue.name for queue in celeryconfig.task_queues}

    routed = {name: app.amqp.router.route({}, name)["queue"].name for name in ours}

    assert {name for name in ours if name.startswith("generation.")} == {
        name for name in celeryconfig.task_routes if name.startswith("generation.")
    }
    assert set(routed.values()) <= queues
    assert {queue for name, queue in routed.items() if name.startswith("periodic.")} == {"periodic"}
    assert {name.split(".")[0] for name in ours} == {"generation", "periodic", "webhooks"}


def test_every_tick_of_the_schedule_is_a_task_that_exists_and_expires():
    app.loader.import_default_modules()
    schedule = celeryconfig.beat_schedule.values()

    assert {tick["task"] for tick in schedule} <= set(app.tasks)
    assert all(tick["schedule"] <= 900 and tick["options"]["expires"] > 0 for tick in schedule)


def test_a_limit_ends_before_the_next_one_begins():
    visibility = celeryconfig.broker_transport_options["visibility_timeout"]

    assert celeryconfig.task_soft_time_limit < celeryconfig.task_time_limit < visibility
