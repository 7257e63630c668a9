"""The HTTP server: it chooses each request's fault, journals what it does before anybody sees it, and answers."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
import socket
import struct
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from aiohttp import web

from workers.simulator.answers import (
    ANSWERS,
    PNG,
    Answer,
    Desk,
    ask_one_image_less,
    list_models,
)
from workers.simulator.draws import Draw
from workers.simulator.faults import (
    FAULTS,
    FaultError,
    Marker,
    Refusal,
    RefusalError,
    Scripted,
    echo,
    random_fault,
    read_marker,
    read_script,
    take_scripted,
)
from workers.simulator.journal import Journal, read_journal
from workers.simulator.questions import Question, read_question
from workers.simulator.texts import PromptCache

log = logging.getLogger("creditmill.simulator")

HOST = "127.0.0.1"
MAX_BODY_BYTES = 2 * 1024 * 1024
KEY_PREFIX = "sim-"


@dataclass(frozen=True)
class Settings:
    """How the simulator behaves: latency and hang in seconds, jitter as a share of the latency, faults by rate."""

    seed: int = 1
    latency_s: float = 0.2
    latency_jitter: float = 0.5
    hang_s: float = 300.0
    rates: Mapping[str, float] | None = None


@dataclass(frozen=True)
class Call:
    """One request as received: either a question with its fault, if any, or a refusal."""

    endpoint: str
    request_id: str
    idempotency_key: str | None
    draw: Draw
    model: str | None = None
    question: Question | None = None
    marker: Marker = field(default_factory=Marker)
    fault: str | None = None
    refusal: Refusal | None = None

    def facts(self) -> dict[str, Any]:
        """Give what the journal says of the request in every entry."""
        prompt = self.question.prompt if self.question else None
        return {
            "idempotency_key": self.idempotency_key,
            "request_id": self.request_id,
            "endpoint": self.endpoint,
            "model": self.model,
            "prompt_sha256": None if prompt is None else hashlib.sha256(prompt.encode()).hexdigest(),
            "fault": self.fault,
        }


def check_key(authorization: str | None) -> None:
    """Accept `Bearer sim-...` only; raises RefusalError (401) whose message echoes the key, as providers do."""
    key = (authorization or "").removeprefix("Bearer ").strip()
    if not key.startswith(KEY_PREFIX) or key == KEY_PREFIX:
        message = f"Incorrect API key provided: {key or 'none'}. The simulator takes only keys that begin with sim-."
        raise RefusalError(Refusal(401, "invalid_api_key", message))


def parse_body(raw: bytes | None) -> Any:
    """Parse a JSON body; raises RefusalError: 413 for None (a body over 2 MB), 400 for anything but JSON."""
    if raw is None:
        raise RefusalError(Refusal(413, "request_too_large", "The request body is over 2 MB."))
    try:
        body = json.loads(raw)
        # A lone surrogate is valid JSON, but no text that could be counted or hashed.
        json.dumps(body, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        message = f"We could not parse the JSON body of your request. It was: {echo(raw.decode(errors='replace'))}"
        raise RefusalError(Refusal(400, "invalid_json", message)) from None
    return body


class Simulator:
    """The provider: receives requests, chooses their faults, executes them and journals each step first."""

    def __init__(self, settings: Settings, journal: Journal):
        self._settings = settings
        self._journal = journal
        self._cache = PromptCache()
        self._script: list[Scripted] = []
        self._stopping = asyncio.Event()
        self._seen = Counter(
            f"key {entry.idempotency_key}"
            for entry in journal.earlier
            if entry.event == "received" and entry.idempotency_key
        )
        self.address = ""

    def application(self) -> web.Application:
        """Make the web application, with every route."""
        app = web.Application(client_max_size=MAX_BODY_BYTES, middlewares=[_errors_in_shape])
        app.on_response_prepare.append(_say_simulated)
        for endpoint in ANSWERS:
            app.router.add_post(f"/v1/{endpoint}", self.generate)
        app.router.add_get("/v1/models", self.models)
        app.router.add_get("/images/{name}", self.image)
        app.router.add_get("/simulator/health", self.health)
        app.router.add_get("/simulator/journal", self.entries)
        app.router.add_get("/simulator/faults", self.faults)
        app.router.add_post("/simulator/faults", self.script_faults)
        app.router.add_delete("/simulator/faults", self.forget_faults)
        return app

    def stop(self) -> None:
        """Drop every request that is waiting; new ones are dropped as soon as they would wait."""
        self._stopping.set()

    async def generate(self, request: web.Request) -> web.StreamResponse:
        """Serve one generation request, as its fault has it."""
        call = self._receive(request, await _read_limited(request))
        self._journal.write("received", **call.facts())
        log.info("%s %s fault=%s", call.request_id, call.endpoint, call.fault)
        if call.refusal or call.question is None:
            return self._refuse(call, call.refusal or Refusal(500, "server_error", "The request was not read."))
        fault = FAULTS.get(call.fault or "")
        if fault and (refusal := fault.refuse(call.question.prompt)):
            return self._refuse(call, refusal)
        if fault and not fault.executes:
            if call.fault == "hang_before_accept":
                await self._hold(request)
            return self._drop(request, call)
        if not await self._wait(self._latency_s(call)):
            return self._drop(request, call)
        answer = self._execute(call, call.question)
        if call.fault == "hang_after_accept":
            await self._hold(request)
            return self._drop(request, call)
        return await self._deliver(request, call, answer)

    def _receive(self, request: web.Request, raw: bytes | None) -> Call:
        key = request.headers.get("Idempotency-Key")
        endpoint = request.path.removeprefix("/v1/")
        identity = f"key {key}" if key else f"body {endpoint} {hashlib.sha256(raw or b'').hexdigest()}"
        seen = self._seen[identity]
        self._seen[identity] += 1
        draw = Draw(self._settings.seed, identity, seen)
        call = Call(endpoint, f"req_{draw.hex('request id')}", key, draw)
        try:
            check_key(request.headers.get("Authorization"))
            body = parse_body(raw)
            model = body.get("model") if isinstance(body, dict) else None
            call = replace(call, model=model[:100] if isinstance(model, str) else None)
            question = read_question(endpoint, body)
            call = replace(call, question=question, marker=read_marker(question.prompt))
            return replace(call, fault=self._choose_fault(call, question.prompt, seen))
        except RefusalError as error:
            return replace(call, refusal=error.refusal)
        except FaultError as error:
            return replace(call, refusal=Refusal(400, "unknown_fault", str(error)))

    def _choose_fault(self, call: Call, prompt: str, seen: int) -> str | None:
        return (
            call.marker.fault(seen)
            or take_scripted(self._script, prompt)
            or random_fault(self._settings.rates or {}, call.draw.fraction("fault"))
        )

    def _latency_s(self, call: Call) -> float:
        latency = call.marker.latency_s
        if latency is None:
            spread = self._settings.latency_jitter * (2 * call.draw.fraction("latency") - 1)
            latency = max(0.0, self._settings.latency_s * (1 + spread))
        return 3 * latency + 1 if call.fault == "slow" else latency

    def _execute(self, call: Call, question: Question) -> Answer:
        desk = Desk(
            draw=call.draw,
            cache=self._cache,
            created=int(time.time()),
            address=self.address,
            output_tokens=call.marker.output_tokens,
            seed=self._settings.seed,
        )
        asked = ask_one_image_less(question) if call.fault == "fewer_images" else question
        answer = ANSWERS[question.endpoint](asked, desk)
        self._journal.write("executed", **call.facts(), usage=answer.usage, images=answer.images)
        return answer

    async def _deliver(self, request: web.Request, call: Call, answer: Answer) -> web.StreamResponse:
        body = {name: value for name, value in answer.body.items() if call.fault != "missing_usage" or name != "usage"}
        raw = json.dumps(body).encode()
        if call.fault == "malformed_body":
            raw = raw[: len(raw) // 2]
        if call.fault == "reset_mid_body":
            return await self._reset_mid_body(request, call, raw)
        if _client_left(request):
            return self._drop(request, call)
        return self._answer(call, 200, raw)

    async def _reset_mid_body(self, request: web.Request, call: Call, raw: bytes) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json", "x-request-id": call.request_id})
        response.content_length = len(raw)
        self._journal.write("dropped", **call.facts(), status=200)
        try:
            await response.prepare(request)
            await response.write(raw[: len(raw) // 2])
        except ConnectionError:
            log.info("%s the client left", call.request_id)
        _reset(request)
        return response

    def _refuse(self, call: Call, refusal: Refusal) -> web.Response:
        return self._answer(call, refusal.status, json.dumps(refusal.body()).encode(), refusal.headers)

    def _answer(self, call: Call, status: int, raw: bytes, headers: Mapping[str, str] | None = None) -> web.Response:
        self._journal.write("answered", **call.facts(), status=status)
        sent = {"x-request-id": call.request_id, **(headers or {})}
        return web.Response(status=status, body=raw, content_type="application/json", headers=sent)

    def _drop(self, request: web.Request, call: Call) -> web.Response:
        self._journal.write("dropped", **call.facts())
        _reset(request)
        return web.Response(status=500)  # goes nowhere: its connection is gone

    async def _wait(self, seconds: float) -> bool:
        """Wait; False if the simulator was told to stop before the time was over."""
        try:
            await asyncio.wait_for(self._stopping.wait(), seconds)
        except TimeoutError:
            return True
        return False

    async def _hold(self, request: web.Request) -> None:
        """Stay silent until the hang is over, the client has left or the simulator stops."""
        end = time.monotonic() + self._settings.hang_s
        while not _client_left(request) and (left := end - time.monotonic()) > 0:
            if not await self._wait(min(0.05, left)):
                return

    async def models(self, request: web.Request) -> web.Response:
        """Serve GET /v1/models."""
        check_key(request.headers.get("Authorization"))
        return web.json_response(list_models())

    async def image(self, request: web.Request) -> web.Response:
        """Serve the one image there is, whatever its name."""
        return web.Response(body=PNG, content_type="image/png")

    async def health(self, request: web.Request) -> web.Response:
        """Say that the simulator serves, by which process and with which seed."""
        return web.json_response({"status": "ok", "pid": os.getpid(), "seed": self._settings.seed})

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
        return web.json_response({"faults": table, "scripted": script, "rates": dict(self._settings.rates or {})})

    async def script_faults(self, request: web.Request) -> web.Response:
        """Add faults for the next requests whose prompts match; they are used in the order given."""
        try:
            self._script += read_script(parse_body(await _read_limited(request)))
        except FaultError as error:
            raise RefusalError(Refusal(400, "unknown_fault", str(error))) from None
        return await self.faults(request)

    async def forget_faults(self, request: web.Request) -> web.Response:
        """Forget every scripted fault that is still to come."""
        self._script.clear()
        return await self.faults(request)


async def _read_limited(request: web.Request) -> bytes | None:
    try:
        return await request.read()
    except web.HTTPRequestEntityTooLarge:
        return None


def _client_left(request: web.Request) -> bool:
    return request.transport is None or request.transport.is_closing()


def _reset(request: web.Request) -> None:
    """Close the connection with a TCP reset instead of an orderly end."""
    if request.transport is None:
        return
    connection = request.transport.get_extra_info("socket")
    if connection is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    request.transport.abort()


@web.middleware
async def _errors_in_shape(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    try:
        return await handler(request)
    except RefusalError as error:
        refusal = error.refusal
    except web.HTTPException as error:
        refusal = Refusal(error.status, None, f"{error.reason}: {request.method} {request.path}")
    return web.json_response(refusal.body(), status=refusal.status)


async def _say_simulated(request: web.Request, response: web.StreamResponse) -> None:
    response.headers["X-Simulator"] = "creditmill"
