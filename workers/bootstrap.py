"""The composition root: what a process needs, built once: settings, logging, secrets, engine, providers.

Each function imports what it builds with: a command that only reads the database imports neither Celery nor Alembic.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING

from config import database
from config.logging import configure_logging
from config.providers import KnownProvider
from config.secrets import use_secret_keys
from config.settings import BrokerSettings, ConfigurationError, Settings, load_broker_settings, load_settings
from workers.local import instance

if TYPE_CHECKING:
    from celery import Celery

    from tasks.providers.base import Provider


def connect(application: str, *, pool_size: int = 5, by_index: bool = False) -> Settings:
    """A process of ours: its settings are read and the database is reachable; raises ConfigurationError.

    `by_index` is for processes that work on jobs, each of which is a row among millions (see `make_engine`). Only
    warnings and errors are logged: a command prints its own results.
    """
    configure_logging("WARNING")
    return _connect(application, pool_size=pool_size, by_index=by_index)


def _connect(application: str, *, pool_size: int = 5, by_index: bool) -> Settings:
    # Tables refer to each other by name, so a process that writes one must have imported all.
    import_module("billing.schema")
    settings = load_settings()
    use_secret_keys(settings.secret_key.get_secret_value())
    url = settings.database_url.get_secret_value()
    engine = database.make_engine(url, application=f"creditmill {application}", pool_size=pool_size, by_index=by_index)
    database.connect(engine)
    return settings


def set_up_tasks(settings: Settings, providers: Mapping[str, Provider] | None = None) -> Celery:
    """Point the Celery app at this process's broker and give the tasks their runtime."""
    from tasks.runtime import Runtime, use_runtime

    app = _point_to_broker(settings)
    app.conf.beat_schedule["recover_jobs"]["schedule"] = settings.recover_every_s
    use_runtime(Runtime(settings=settings, providers=providers or {}))
    return app


def onlooker() -> tuple[BrokerSettings, Celery]:
    """A process that looks at the broker only: it needs no database and no secret key."""
    settings = load_broker_settings()
    configure_logging(settings.log_level, settings.log_format)
    return settings, _point_to_broker(settings)


def _point_to_broker(settings: BrokerSettings) -> Celery:
    from tasks.app import app
    from tasks.messages.transport import use_careful_transport

    use_careful_transport()
    app.conf.update(
        broker_url=settings.broker_url.get_secret_value(),
        broker_transport_options={
            **app.conf.broker_transport_options,
            "visibility_timeout": settings.visibility_timeout_s,
        },
    )
    return app


def publisher(application: str) -> Settings:
    """Somebody's program that submits jobs: connected, with tasks that it can publish; its logging stays its own.

    What its environment leaves open, it takes from the instance that runs on this machine (`CREDITMILL_FOLDER`).
    """
    instance.join(instance.folder())
    settings = _connect(application, by_index=True)
    set_up_tasks(settings)
    return settings


def publishing_command(application: str) -> Settings:
    """A command of ours that submits jobs, or looks at the broker."""
    configure_logging("WARNING")
    return publisher(application)


def server(application: str, *, pool_size: int) -> Settings:
    """A process that serves requests: connected, with tasks that it can publish, and logging of our own."""
    settings = _connect(application, pool_size=pool_size, by_index=True)
    configure_logging(settings.log_level, settings.log_format)
    require_schema()
    set_up_tasks(settings)
    return settings


def worker(
    application: str, *, pool_size: int = 5, providers: Mapping[str, Provider] | None = None
) -> tuple[Settings, Celery]:
    """A worker process: logging of our own, and a pool of its own for every forked child."""
    from celery.exceptions import CPendingDeprecationWarning
    from celery.signals import setup_logging, worker_process_init

    settings = connect(application, pool_size=pool_size, by_index=True)
    configure_logging(settings.log_level, settings.log_format)
    # Celery's reminder of a setting that celeryconfig sets.
    warnings.filterwarnings("ignore", category=CPendingDeprecationWarning)
    setup_logging.connect(_keep_our_logging, weak=False)
    worker_process_init.connect(_after_fork, weak=False)
    require_schema()
    return settings, set_up_tasks(settings, providers)


def all_providers() -> dict[str, Provider]:
    """Every provider that can be called, by name."""
    # The SDKs take a second to import: only the process that calls providers pays for it.
    return {str(known): adapter(known) for known in KnownProvider if known.adapter}


def adapter(known: KnownProvider) -> Provider:
    """What calls this provider."""
    module, _, name = known.adapter.partition(":")
    made: Provider = getattr(import_module(module), name)()
    return made


def require_schema() -> None:
    """Raise ConfigurationError unless the database answers and has every migration."""
    from sqlalchemy.exc import OperationalError

    from billing import migrating

    try:
        missing = migrating.pending(database.engine())
    except OperationalError:
        raise ConfigurationError("The database cannot be reached: check DATABASE_URL and that it is running.") from None
    if missing:
        raise ConfigurationError(f"The database lacks migrations ({', '.join(missing)}): run `creditmill migrate`.")


def _keep_our_logging(**_: object) -> None:
    """Keep Celery from configuring logging: it does so unless this signal has a receiver."""


def _after_fork(**_: object) -> None:
    database.reconnect()
