"""Commands that run processes: the workers, beat, Flower, and everything at once."""

from __future__ import annotations

import click


@click.group()
def worker() -> None:
    """Run a worker process."""


@worker.command()
def billing() -> None:
    """Run the billing worker (queues: requests, billing, periodic)."""
    from workers import processes

    processes.run_billing()


@worker.command()
def generation() -> None:
    """Run the generation worker, which calls the providers (queues: text, image, embedding)."""
    from workers import processes

    processes.run_generation()


@click.command()
def beat() -> None:
    """Run beat, which sends the periodic tasks."""
    from workers import processes

    processes.run_beat()


@click.command()
def flower() -> None:
    """Run Flower, the operators' view of the queues.

    It listens on CREDITMILL_FLOWER_ADDRESS (127.0.0.1) and CREDITMILL_FLOWER_PORT (5555). On any other address it
    requires CREDITMILL_FLOWER_BASIC_AUTH=user:password.
    """
    from workers import processes

    processes.run_flower()


@click.command()
def api() -> None:
    """Run the HTTP API, which apps submit jobs to and are answered by.

    It listens on CREDITMILL_API_ADDRESS (127.0.0.1) and CREDITMILL_API_PORT (8000). Keys are made by `creditmill keys
    create`. What each address takes and answers is shown at /docs.
    """
    from workers.web import server

    server.run()


@click.command()
def migrate() -> None:
    """Bring the database's schema up to date."""
    from billing import migrating
    from config import database
    from workers import bootstrap

    bootstrap.connect("migrate")
    applied = migrating.migrate(database.engine())
    click.echo(f"Applied: {', '.join(applied)}." if applied else "The schema is up to date.")


@click.command()
@click.option(
    "--simulator", is_flag=True, help="Call a local simulator instead of the providers: for trying things out."
)
@click.option("--flower/--no-flower", default=True, show_default=True, help="Run Flower too.")
@click.option("--api/--no-api", default=True, show_default=True, help="Run the HTTP API too.")
def up(simulator: bool, flower: bool, api: bool) -> None:
    """Run everything on this machine until Ctrl-C: servers, workers, beat, the HTTP API and Flower.

    Servers that DATABASE_URL and BROKER_URL do not name are started from wheels, with their data in .creditmill
    (or CREDITMILL_FOLDER). Other commands in the same directory find them by themselves.
    With --simulator, a new instance has an account to try it out with; its key lies in .creditmill/api.key.

    \b
    Example:  creditmill up --simulator
              creditmill accounts create "Corner Bakery"        (in another terminal)
    """
    from workers.local import instance, machine

    machine.run_until_stopped(instance.folder(), simulator=simulator, flower=flower, api=api)


@click.command()
@click.option(
    "--requests", "path", type=click.Path(exists=True, dir_okay=False), help="Other requests to run, as JSON lines."
)
@click.option(
    "--faults/--no-faults", default=True, show_default=True, help="Let the simulated provider fail now and then."
)
@click.option("--seed", default=1, show_default=True, help="Which faults and answers the simulator chooses.")
def demo(path: str | None, faults: bool, seed: int) -> None:
    """Bill real requests end to end on this machine, with faults, and check the books.

    Starts real servers and workers, a simulated provider, sends the requests of examples/requests.jsonl through them,
    and prints what became of them. Its data stays in .creditmill-demo (or CREDITMILL_FOLDER). Exits with 1 when the
    books do not balance.
    """
    from workers.commands import demonstration
    from workers.local import instance

    raise click.exceptions.Exit(
        demonstration.run(instance.folder(instance.DEMO_FOLDER), path=path, faults=faults, seed=seed)
    )


@click.command(context_settings={"ignore_unknown_options": True}, add_help_option=False)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def simulator(arguments: tuple[str, ...]) -> None:
    """Run the simulated provider alone (see `creditmill simulator --help`)."""
    # Imported here: it needs the `embedded` extra, and no other command may start it by accident.
    from workers.simulator.command import main

    main.main(args=list(arguments), prog_name="creditmill simulator", standalone_mode=False)
