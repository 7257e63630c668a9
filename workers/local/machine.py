"""Everything on one machine: embedded servers, workers, beat, the API and Flower under one supervisor."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from threading import Event
from typing import TextIO

import click
from sqlalchemy.orm import Session

from billing import migrating
from config import database
from config.database import transaction
from config.integrations import configured_providers, connection_for, forget_connection, set_connection, set_simulated
from config.providers import KnownProvider
from config.settings import Settings, cores
from workers import bootstrap, processes
from workers.local import instance, trial, variables
from workers.local.signals import stop_signals
from workers.local.supervisor import Program, Supervisor

SIMULATOR_KEY = "sim-local-simulator"
SIMULATED = [known for known in KnownProvider if known.simulated_path]
"""The providers that the simulator plays."""

GENERATION_WORKERS_MAX = 8
STARTS_WITHIN_S = 60


def run_until_stopped(home: Path, *, simulator: bool, flower: bool, api: bool) -> None:
    """Run every process until a signal; then finish the calls in flight and stop, the servers last."""
    # What an app on this machine listens to may be told to it.
    tried = paced({"CREDITMILL_WEBHOOKS_TO_PRIVATE": "1"}) if simulator else nullcontext()
    with stop_signals() as stop, tried, instance.running(home):
        settings = prepare()
        if flower:
            processes.require_free_port(settings)
        if api:
            processes.listen(settings).close()
        port = free_port()
        if simulator:
            point_to_simulator(port)
        else:
            forget_simulator()
        programs = [*workers(settings, generation=generation_workers()), program("beat", ["beat"], stop_order=1)]
        if api:
            programs.append(program("api", ["api"], stop_order=1))
        if flower:
            programs.append(program("flower", ["flower"], stop_order=1))
        if simulator:
            programs.append(simulator_program(home, port, faults={}, seed=1))
        with supervised(home, programs, sys.stderr):
            _announce(settings, flower=flower)
            if api and _answers(settings, stop):
                _announce_api(settings, home, tried=simulator and trial.prepare(home))
            stop.wait()
            click.echo("Stopping: calls in flight are finished first.", err=True)


@contextmanager
def paced(variables: Mapping[str, str]) -> Iterator[None]:
    """Set settings for this process and the programs it starts, where the environment leaves them open."""
    opened = [name for name in variables if name not in os.environ]
    os.environ.update({name: variables[name] for name in opened})
    try:
        yield
    finally:
        for name in opened:
            os.environ.pop(name, None)


def prepare() -> Settings:
    """Connect this process to the instance's servers and bring the schema up to date."""
    settings = bootstrap.publishing_command("machine")
    migrating.migrate(database.engine())
    return settings


def point_to_simulator(port: int) -> None:
    """Point the adapters to the simulator on this port; raises ClickException rather than replace a real key."""
    with transaction() as session:
        set_simulated(session, True)
        current = configured_providers(session)
        for provider in SIMULATED:
            if provider in current and not _is_simulated(session, provider):
                raise click.ClickException(
                    f"This database has a real connection to {provider}, which the simulator would replace. "
                    f"Use another folder ({instance.FOLDER_VARIABLE}) or another DATABASE_URL."
                )
            set_connection(
                session, provider, api_key=SIMULATOR_KEY, base_url=f"http://127.0.0.1:{port}{provider.simulated_path}"
            )


def forget_simulator() -> None:
    """Remove the connections to an earlier run's simulator: nothing answers there any more."""
    with transaction() as session:
        set_simulated(session, False)
        for provider in SIMULATED:
            if provider in configured_providers(session) and _is_simulated(session, provider):
                forget_connection(session, provider)


def _is_simulated(session: Session, provider: str) -> bool:
    return connection_for(session, provider, "text").api_key == SIMULATOR_KEY


def generation_workers() -> int:
    """How many generation workers a machine runs: one a core, as threads share one; each has some 120 MB."""
    return min(GENERATION_WORKERS_MAX, cores())


def workers(settings: Settings, *, generation: int = 1) -> list[Program]:
    """The billing worker and so many generation workers; on a stop they get the time that their longest call needs."""
    longest = settings.longest_work_s + 15
    return [
        program("billing", ["worker", "billing"], stop_order=3, stop_grace_s=30),
        *(
            program(
                "generation" if number == 1 else f"generation-{number}",
                ["worker", "generation"],
                stop_order=2,
                stop_grace_s=longest,
            )
            for number in range(1, generation + 1)
        ),
    ]


def program(name: str, arguments: Sequence[str], *, stop_order: int, stop_grace_s: float = 30) -> Program:
    """One of our own commands as a supervised program; what it needs of our environment it is given now."""
    return Program(
        name=name,
        command=[sys.executable, "-m", "workers.cli", *arguments],
        environment=variables.of_program(arguments[-1]),
        stop_grace_s=stop_grace_s,
        stop_order=stop_order,
    )


def simulator_program(
    home: Path,
    port: int,
    *,
    faults: Mapping[str, float],
    seed: int,
    latency_s: float = 0.3,
    options: Sequence[str] = (),
) -> Program:
    """The simulator as a supervised program, with its journal in the folder. It needs no settings. Stopped last."""
    command = [
        *(sys.executable, "-m", "workers.simulator"),
        *("--port", str(port), "--seed", str(seed), "--latency", str(latency_s)),
        *("--journal", str(home / "simulator-journal.jsonl")),
        *options,
    ]
    for name, rate in faults.items():
        command += ["--fault", f"{name}={rate}"]
    return Program(name="simulator", command=command, stop_grace_s=5, stop_order=9)


def free_port() -> int:
    """A port of loopback that nobody listens on just now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@contextmanager
def supervised(home: Path, programs: Sequence[Program], output: TextIO, *, quiet: bool = False) -> Iterator[Supervisor]:
    """Run the programs while the block lasts; their lines also go to files in the folder's `logs`."""
    supervisor = Supervisor(
        programs,
        output=output,
        state_file=home / "processes.json",
        colour=output.isatty(),
        log_folder=home / "logs",
        quiet=quiet,
    )
    supervisor.start()
    try:
        yield supervisor
    finally:
        supervisor.stop()


def _answers(settings: Settings, stop: Event) -> bool:
    """Whether the API answers by now; waits for it, as it takes a moment to start."""
    deadline = time.monotonic() + STARTS_WITHIN_S
    while not stop.wait(0.1) and time.monotonic() < deadline:
        with suppress(OSError), socket.create_connection((settings.api_address, settings.api_port), timeout=1):
            return True
    return False


def _announce_api(settings: Settings, home: Path, *, tried: bool) -> None:
    url = f"http://{settings.api_address}:{settings.api_port}"
    lines = [f"API: {url} (what it takes and answers: {url}/docs)"]
    if tried:
        file = trial.key_file(home)
        lines += [f"A key of account 1, to try it out, is in {file}:", f"  {trial.example(url, file)}"]
    else:
        lines.append("Make a key for an account: creditmill keys create --account ID")
    click.echo("\n".join(lines), err=True)


def _announce(settings: Settings, *, flower: bool) -> None:
    with transaction() as session:
        providers = configured_providers(session)
    lines = ["Creditmill is running; Ctrl-C stops it and loses nothing."]
    if flower:
        lines.append(f"Flower: http://{settings.flower_address}:{settings.flower_port}/")
    if not providers:
        lines.append("No provider has a key yet: `creditmill integrations set openai`, or `creditmill up --simulator`.")
    for name, url in sorted(providers.items()):
        lines.append(f"Provider {name}: {url or 'its own address'}")
    click.echo("\n".join(lines), err=True)
