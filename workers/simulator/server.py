"""The HTTP server: it chooses each request's fault, journals what it does before anybody sees it, and answers."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

from aiohttp import web

from workers.simulator.answers import ANSWERS, PNG, Answer, list_models
from workers.simulator.calls import Call, check_key, parse_body
from workers.simulator.control import Control
from workers.simulator.draws import Draw
from workers.simulator.faults import (
    FAULTS,
    FaultError,
    Refusal,
    RefusalError,
    Scripted,
    random_fault,
    read_marker,
    take_scripted,
)
from workers.simulator.holding import Hold
from workers.simulator.journal import Journal
from workers.simulator.openai import OpenAIApi
from workers.simulator.questions import Question
from workers.simulator.runware import PATH, RunwareApi
from workers.simulator.texts import Desk, PromptCache
from workers.simulator.wire import client_left, errors_in_shape, read_limited, reset, say_simulated

log = logging.getLogger("creditmill.simulator")

HOST = "127.0.0.1"
MAX_BODY_BYTES = 2 * 1024 * 1024
DRIP_S = 0.1
"""Between two bytes of an answer that drips."""
PAGE = b"<html><body><h1>This is a simulated gateway, not the provider.</h1></body></html>"


@dataclass(frozen=True)
class Settings:
    """How the simulator behaves: latency and hang in seconds, jitter as a share of the latency, faults by rate.

    With `honour_keys`, OpenAI's endpoints execute one idempotency key once; Runware never executes a task twice.
    """

    seed: int = 1
    latency_s: float = 0.2
    latency_jitter: float = 0.5
    hang_s: float = 300.0
    rates: Mapping[str, float] | None = None
    honour_keys: bool = False


class Simulator:
    """The provider: receives requests, chooses their faults, executes them and journals each step first."""

    def __init__(self, settings: Settings, journal: Journal):
        self._settings = settings
        self._journal = journal
        self._openai = OpenAIApi(journal.earlier, honour_keys=settings.honour_keys)
        self._runware = RunwareApi(journal.earlier)
        self._cache = PromptCache()
        self._script: list[Scripted] = []
        self._hold = Hold()
        self._stopping = asyncio.Event()
        self._seen = Counter(
            f"key {entry.idempotency_key}"
            for entry in journal.earlier
            if entry.event == "received" and entry.idempotency_key
        )
        self.address = ""

    def application(self) -> web.Application:
        """Make the web application, with every route."""
        app = web.Application(client_max_size=MAX_BODY_BYTES, middlewares=[errors_in_shape])
        app.on_response_prepare.append(say_simulated)
        for endpoint in ANSWERS:
            app.router.add_post(f"/v1/{endpoint}", self.generate)
        app.router.add_post(PATH, self.generate)
        app.router.add_get("/v1/models", self.models)
        app.router.add_get("/images/{name}", self.image)
        rates = self._settings.rates or {}
        Control(self._settings.seed, rates, self._journal, self._script, self._hold).add_routes(app)
        return app

    def stop(self) -> None:
        """Drop every request that is waiting; new ones are dropped as soon as they would wait."""
        self._stopping.set()
        self._hold.release()

    async def generate(self, request: web.Request) -> web.StreamResponse:
        """Serve one generation request, or one that looks a task up, as its fault has it."""
        call = self._receive(request, await read_limited(request))
        self._journal.write("received", **call.facts())
        log.info("%s %s fault=%s", call.request_id, call.endpoint, call.fault)
        if call.refusal or call.question is None:
            unread = Refusal(500, "server_error", "The request was not read.")
            return await self._refuse(request, call, call.refusal or unread)
        if call.replay is not None:
            return await self._answer(request, call, 200, json.dumps(call.replay.body).encode())
        fault = FAULTS.get(call.fault or "")
        if fault and (refusal := fault.refuse(call.question.prompt)):
            return await self._refuse(request, call, refusal)
        if fault and not fault.executes:
            if call.fault == "hang_before_accept":
                await self._hang(request)
            return self._drop(request, call)
        with call.api.working_on(call):
            if not await self._wait(self._latency_s(call)):
                return self._drop(request, call)
            try:
                answer = self._execute(call, call.question)
            except RefusalError as error:
                return await self._refuse(request, call, error.refusal)
        if call.fault == "hang_after_accept":
            await self._hang(request)
            return self._drop(request, call)
        if fault and fault.page is not None:
            return await self._answer(request, call, fault.page, PAGE, {"Content-Type": "text/html"})
        return await self._deliver(request, call, answer)

    def _receive(self, request: web.Request, raw: bytes | None) -> Call:
        key = request.headers.get("Idempotency-Key")
        api = self._runware if request.path == PATH else self._openai
        endpoint = request.path.removeprefix("/v1/")
        identity = f"key {key}" if key else f"body {endpoint} {hashlib.sha256(raw or b'').hexdigest()}"
        seen = self._seen[identity]
        self._seen[identity] += 1
        draw = Draw(self._settings.seed, identity, seen)
        call = Call(api, endpoint, f"req_{draw.hex('request id')}", key, draw)
        try:
            check_key(request.headers.get("Authorization"))
            body = parse_body(raw)
            call = api.name(call, body)
            question = api.read(call, body)
            call = replace(call, question=question, marker=read_marker(question.prompt))
            # What was executed before is answered without a fault, and uses no scripted one up.
            if (replay := api.replay(call)) is not None:
                return replace(call, replay=replay)
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
        asked = call.api.one_image_less(question) if call.fault == "fewer_images" else question
        answer = call.api.answer(call, asked, desk)
        if answer.billable:
            self._journal.write("executed", **call.facts(), usage=answer.usage, images=answer.images)
        return answer

    async def _deliver(self, request: web.Request, call: Call, answer: Answer) -> web.StreamResponse:
        body = call.api.without_usage(answer.body) if call.fault == "missing_usage" else answer.body
        if call.fault == "model_refusal":
            body = call.api.declined(body)
        raw = json.dumps(body).encode()
        if call.fault == "malformed_body":
            raw = raw[: len(raw) // 2]
        if call.fault in ("reset_mid_body", "drip"):
            return await self._break_off(request, call, raw)
        if client_left(request):
            return self._drop(request, call)
        return await self._answer(request, call, 200, raw)

    async def _break_off(self, request: web.Request, call: Call, raw: bytes) -> web.StreamResponse:
        """Send the headers and half of the body, at once or a byte at a time; then reset the connection."""
        if not await self._may_answer(request):
            return self._drop(request, call)
        response = web.StreamResponse(headers={"Content-Type": "application/json", "x-request-id": call.request_id})
        response.content_length = len(raw)
        self._journal.write("dropped", **call.facts(), status=200)
        try:
            await response.prepare(request)
            if call.fault == "drip":
                await self._drip(request, response, raw[: len(raw) // 2])
            else:
                await response.write(raw[: len(raw) // 2])
        except ConnectionError:
            log.info("%s the client left", call.request_id)
        reset(request)
        return response

    async def _drip(self, request: web.Request, response: web.StreamResponse, raw: bytes) -> None:
        """Send a byte now and then, until the hang is over, the client has left or the simulator stops."""
        end = time.monotonic() + self._settings.hang_s
        for byte in raw:
            if client_left(request) or time.monotonic() > end or not await self._wait(DRIP_S):
                return
            await response.write(bytes([byte]))

    async def _refuse(self, request: web.Request, call: Call, refusal: Refusal) -> web.Response:
        told, body = call.api.refuse(call, refusal)
        return await self._answer(request, call, told.status, json.dumps(body).encode(), told.headers)

    async def _answer(
        self, request: web.Request, call: Call, status: int, raw: bytes, headers: Mapping[str, str] | None = None
    ) -> web.Response:
        if not await self._may_answer(request):
            return self._drop(request, call)
        self._journal.write("answered", **call.facts(), status=status)
        sent = {"Content-Type": "application/json", "x-request-id": call.request_id, **(headers or {})}
        return web.Response(status=status, body=raw, headers=sent)

    async def _may_answer(self, request: web.Request) -> bool:
        """Wait while answers are held; False if nobody is left to answer by then, or the simulator stops."""
        if not self._hold.is_on:
            return True
        await self._hold.released()
        return not self._stopping.is_set() and not client_left(request)

    def _drop(self, request: web.Request, call: Call) -> web.Response:
        self._journal.write("dropped", **call.facts())
        reset(request)
        return web.Response(status=500)  # goes nowhere: its connection is gone

    async def _wait(self, seconds: float) -> bool:
        """Wait; False if the simulator was told to stop before the time was over."""
        try:
            await asyncio.wait_for(self._stopping.wait(), seconds)
        except TimeoutError:
            return True
        return False

    async def _hang(self, request: web.Request) -> None:
        """Stay silent until the hang is over, the client has left or the simulator stops."""
        end = time.monotonic() + self._settings.hang_s
        while not client_left(request) and (left := end - time.monotonic()) > 0:
            if not await self._wait(min(0.05, left)):
                return

    async def models(self, request: web.Request) -> web.Response:
        """Serve GET /v1/models."""
        check_key(request.headers.get("Authorization"))
        return web.json_response(list_models())

    async def image(self, request: web.Request) -> web.Response:
        """Serve the one image there is, whatever its name."""
        return web.Response(body=PNG, content_type="image/png")
