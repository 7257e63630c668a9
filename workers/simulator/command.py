"""How the simulator is started: its options, and the server's life from the first request to the signal."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
from pathlib import Path

import click
from aiohttp import web

from workers.simulator.draws import count_tokens
from workers.simulator.faults import FaultError, read_rates
from workers.simulator.journal import Journal
from workers.simulator.runware import PATH
from workers.simulator.server import HOST, Settings, Simulator, log

BACKLOG = 2_048
"""How many connections may wait to be accepted: as many calls as one worker makes at a time at most."""


async def serve(settings: Settings, journal: Journal, port: int) -> None:
    """Serve on 127.0.0.1 until SIGTERM or SIGINT; prints one line of JSON to stdout once requests are accepted.

    Raises OSError if the port is taken; port 0 picks a free one.
    """
    simulator = Simulator(settings, journal)
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    runner = web.AppRunner(simulator.application(), access_log=None, shutdown_timeout=2.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, HOST, port, backlog=BACKLOG).start()
        simulator.address = f"http://{HOST}:{runner.addresses[0][1]}"
        count_tokens("The first count loads the encoding, which takes half a second.")
        addresses = {"simulator": f"{simulator.address}/v1", "runware": f"{simulator.address}{PATH}"}
        click.echo(json.dumps({**addresses, "pid": os.getpid()}))
        log.info("serving %s, journal %s", simulator.address, journal.path)
        await stopped.wait()
        log.info("stopping")
    finally:
        simulator.stop()
        await runner.cleanup()


def _rates(context: click.Context, parameter: click.Parameter, options: tuple[str, ...]) -> dict[str, float]:
    try:
        return read_rates(options)
    except FaultError as error:
        raise click.BadParameter(str(error)) from None


@click.command("simulator")
@click.option("--port", type=click.IntRange(0, 65_535), default=0, show_default=True, help="0 picks a free port.")
@click.option(
    "--journal",
    "journal_path",
    type=click.Path(dir_okay=False, path_type=Path),
    required=True,
    help="JSON-lines file that tells what was executed; it is continued if it exists.",
)
@click.option("--seed", type=int, default=1, show_default=True, help="Decides every text, count and random fault.")
@click.option("--latency", type=click.FloatRange(min=0), default=0.2, show_default=True, help="Seconds per answer.")
@click.option(
    "--latency-jitter", type=click.FloatRange(0, 1), default=0.5, show_default=True, help="Share by which it varies."
)
@click.option(
    "--fault", "rates", multiple=True, callback=_rates, metavar="NAME=RATE", help="Random fault; may be given often."
)
@click.option(
    "--hang", type=click.FloatRange(min=0), default=300.0, show_default=True, help="Seconds that a hang lasts."
)
@click.option(
    "--honour-keys",
    is_flag=True,
    help="Execute one idempotency key once, as OpenAI itself does not. Answers are kept in memory: a key that was "
    "executed before a restart gets 409.",
)
def main(
    port: int,
    journal_path: Path,
    seed: int,
    latency: float,
    latency_jitter: float,
    rates: dict[str, float],
    hang: float,
    honour_keys: bool,
) -> None:
    """Serve a simulated AI provider on 127.0.0.1, which speaks OpenAI's API and Runware's, and fails on demand.

    It accepts only API keys that begin with sim-, and everything it makes says that it is simulated. A prompt can ask
    for a fault itself: "A red fox [[simulate: rate_limit x2; slow x1]]". GET /simulator/faults lists the faults.
    POST /simulator/hold holds all answers back, DELETE /simulator/hold lets them go together.

    \b
    Example:
      creditmill simulator --port 8123 --journal journal.jsonl --fault rate_limit=0.05 --fault slow=0.1
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    settings = Settings(seed, latency, latency_jitter, hang, rates, honour_keys)
    try:
        journal = Journal(journal_path)
    except (OSError, ValueError, TypeError) as error:
        raise click.ClickException(f"The journal {journal_path} cannot be continued: {error}.") from None
    try:
        asyncio.run(serve(settings, journal, port))
    except OSError as error:
        raise click.ClickException(f"Cannot serve {HOST}:{port}: {error.strerror or error}.") from None
    finally:
        journal.close()
