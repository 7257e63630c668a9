"""The simulator's own pages under /simulator: its health, its journal, its scripted faults, the answers it holds."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from dataclasses import asdict

from aiohttp import web

from workers.simulator.calls import parse_body
from workers.simulator.faults import FAULTS, FaultError, Refusal, RefusalError, Scripted, read_script
from workers.simulator.holding import Hold
from workers.simulator.journal import Journal, read_journal
from workers.simulator.wire import read_limited


class Control:
    """Tells about a running simulator, scripts its faults and holds its answers.

    `script` is the list that the server uses up, `hold` what its answers wait for.
    """

    def __init__(
        self, seed: int, rates: Mapping[str, float], journal: Journal, script: list[Scripted], hold: Hold
    ) -> None:
        self._seed = seed
        self._rates = rates
        self._journal = journal
        self._script = script
        self._hold = hold

    def add_routes(self, app: web.Application) -> None:
        """Serve the pages."""
        app.router.add_get("/simulator/health", self.health)
        app.router.add_get("/simulator/journal", self.entries)
        app.router.add_get("/simulator/faults", self.faults)
        app.router.add_post("/simulator/faults", self.script_faults)
        app.router.add_delete("/simulator/faults", self.forget_faults)
        app.router.add_get("/simulator/hold", self.hold)
        app.router.add_post("/simulator/hold", self.hold_answers)
        app.router.add_delete("/simulator/hold", self.release_answers)

    async def health(self, request: web.Request) -> web.Response:
        """Say that the simulator serves, by which process and with which seed."""
        return web.json_response({"status": "ok", "pid": os.getpid(), "seed": self._seed})

    async def entries(self, request: web.Request) -> web.Response:
        """Serve the journal, or its entries of one idempotency `key` and one `event`."""
        key, event = request.query.get("key"), request.query.get("event")
        entries = await asyncio.to_thread(read_journal, self._journal.path)
        chosen = [
            asdict(entry)
            for entry in entries
            if (key is None or entry.idempotency_key == key) and (event is None or entry.event == event)
        ]
        return web.json_response({"entries": chosen})

    async def faults(self, request: web.Request) -> web.Response:
        """List the faults, the scripted ones that are still to come and the random rates."""
        table = [
            {"name": fault.name, "executes": fault.executes, "description": fault.description}
            for fault in FAULTS.values()
        ]
        script = [asdict(scripted) for scripted in self._script]
        return web.json_response({"faults": table, "scripted": script, "rates": dict(self._rates)})

    async def script_faults(self, request: web.Request) -> web.Response:
        """Add faults for the next requests whose prompts match; they are used in the order given."""
        try:
            self._script += read_script(parse_body(await read_limited(request)))
        except FaultError as error:
            raise RefusalError(Refusal(400, "unknown_fault", str(error))) from None
        return await self.faults(request)

    async def forget_faults(self, request: web.Request) -> web.Response:
        """Forget every scripted fault that is still to come."""
        self._script.clear()
        return await self.faults(request)

    async def hold(self, request: web.Request) -> web.Response:
        """Say whether answers are held, and how many wait."""
        return web.json_response({"holding": self._hold.is_on, "waiting": self._hold.waiting})

    async def hold_answers(self, request: web.Request) -> web.Response:
        """Hold all answers from now on; calls are received and executed as ever."""
        if await read_limited(request) != b"":
            message = "Holding takes no body: it holds the answers to all requests."
            raise RefusalError(Refusal(400, "unexpected_body", message))
        self._hold.begin()
        return await self.hold(request)

    async def release_answers(self, request: web.Request) -> web.Response:
        """Let all waiting answers go at once, and later ones pass; says how many waited."""
        waiting = self._hold.waiting
        self._hold.release()
        return web.json_response({"holding": False, "released": waiting})
