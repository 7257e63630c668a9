"""What each process runs, with which pool and on which queues. Each function runs until its process is told to stop."""

from __future__ import annotations

import ipaddress
import os
import socket
import warnings

from celery.platforms import SecurityWarning
from celery.signals import worker_ready

from config.logging import get_logger
from config.settings import BrokerSettings, ConfigurationError, Settings, check_proxies
from tasks.messages import takes
from tasks.writing import RECORD_FOR_S
from workers import bootstrap
from workers.health.watchdog import Watchdog

BILLING_QUEUES = "requests,billing,periodic"
BILLING_PREFETCH = 16
"""How many messages the billing worker holds for each of its processes."""
GENERATION_QUEUES = "text,image,embedding,webhooks"

log = get_logger(__name__)


def run_billing() -> None:
    """The billing worker: short database work, a few processes, so that one slow statement holds up one of them."""
    settings, app = bootstrap.worker("billing", pool_size=2)
    # Hints that came in while a take was made are dropped after it; each step takes milliseconds, so none waits long.
    app.conf.update(worker_prefetch_multiplier=BILLING_PREFETCH)
    takes.share_with_forks()
    _watch(settings, BILLING_QUEUES, room=settings.billing_concurrency, stop_within_s=60)
    arguments = _worker_arguments("billing", BILLING_QUEUES, settings)
    app.start([*arguments, "--pool=prefork", f"--concurrency={settings.billing_concurrency}"])


def run_generation() -> None:
    """The generation worker: provider calls wait on the network, so they share one process, a thread each."""
    # A call through one that cannot be read would look like an answer that cannot be read.
    check_proxies()
    settings, app = bootstrap.worker("generation", pool_size=10, providers=bootstrap.all_providers())
    _watch(
        settings,
        GENERATION_QUEUES,
        room=settings.generation_concurrency,
        stop_within_s=settings.longest_work_s + RECORD_FOR_S,
    )
    # Threads know no time limits: every call has its own timeout instead.
    app.conf.update(task_time_limit=None, task_soft_time_limit=None)
    arguments = _worker_arguments("generation", GENERATION_QUEUES, settings)
    app.start([*arguments, "--pool=threads", f"--concurrency={settings.generation_concurrency}"])


def run_beat() -> None:
    """Beat: sends the periodic tasks. Two at once are harmless; its schedule needs no file."""
    settings, app = bootstrap.worker("beat")
    app.start(argv=["--quiet", "beat", "--scheduler=celery.beat:Scheduler", f"--loglevel={settings.log_level}"])


def run_flower() -> None:
    """Flower: the operators' view of queues and tasks. Beyond loopback it asks for a password.

    Raises ConfigurationError when it would be open to the network without one, or when its port is taken.
    """
    settings, app = bootstrap.onlooker()
    os.environ.update(flower_environment(settings))
    require_free_port(settings)
    app.start(argv=["flower"])


def require_free_port(settings: BrokerSettings) -> None:
    """Raise ConfigurationError when another program listens where Flower would."""
    try:
        with socket.create_server((settings.flower_address, settings.flower_port)):
            return
    except OSError as error:
        raise ConfigurationError(
            f"Flower cannot listen on {settings.flower_address}:{settings.flower_port} ({error.strerror}): set "
            "CREDITMILL_FLOWER_PORT to a free port."
        ) from None


def listen(settings: Settings) -> socket.socket:
    """The socket on which the API listens; raises ConfigurationError when another program has its port."""
    try:
        return socket.create_server((settings.api_address, settings.api_port), backlog=2_048)
    except OSError as error:
        raise ConfigurationError(
            f"The API cannot listen on {settings.api_address}:{settings.api_port} ({error.strerror}): set "
            "CREDITMILL_API_PORT to a free port."
        ) from None


def flower_environment(settings: BrokerSettings) -> dict[str, str]:
    """Flower's options; passwords travel by the environment, never as arguments."""
    options = {
        "FLOWER_ADDRESS": settings.flower_address,
        "FLOWER_PORT": str(settings.flower_port),
        # Flower keeps what it saw in memory: a view, never a record.
        "FLOWER_MAX_TASKS": "10000",
        # The arguments are job ids: what an operator looks for.
        "FLOWER_TASKS_COLUMNS": "name,args,state,received,runtime,worker",
    }
    if settings.flower_basic_auth is not None:
        return options | {"FLOWER_BASIC_AUTH": settings.flower_basic_auth.get_secret_value()}
    if not _is_loopback(settings.flower_address):
        raise ConfigurationError(
            f"Flower would be open to everybody on {settings.flower_address}: set CREDITMILL_FLOWER_BASIC_AUTH to "
            "user:password, or bind it to 127.0.0.1."
        )
    # Without a password, Flower is read-only.
    return options | {"FLOWER_UNAUTHENTICATED_API": "true", "FLOWER_READ_ONLY": "true"}


def _is_loopback(address: str) -> bool:
    try:
        return address == "localhost" or ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def _watch(settings: Settings, queues: str, *, room: int, stop_within_s: float) -> None:
    watchdog = Watchdog(
        settings.broker_url.get_secret_value(),
        queues.split(","),
        room=room,
        stalled_after_s=settings.stalled_after_s,
        stop_within_s=stop_within_s,
    )
    # Not before: a process must not fork while it has threads.
    worker_ready.connect(lambda **_: watchdog.start(), weak=False)


def _worker_arguments(name: str, queues: str, settings: Settings) -> list[str]:
    # Celery warns that a worker of root's would run pickled code as root; ours takes JSON only.
    warnings.filterwarnings("ignore", category=SecurityWarning)
    log.info("worker_starting", worker=name, queues=queues)
    return [
        "--quiet",
        "worker",
        f"--hostname={name}-{os.getpid()}@%h",
        f"--queues={queues}",
        f"--loglevel={settings.log_level}",
        "--without-mingle",
        "--without-gossip",
    ]
