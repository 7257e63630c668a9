"""The apps that use the system during a storm: they submit from Python and by message, and keep what was acknowledged.

An app that learns nothing of its request sends it again, with the same key; one that sent a message looks its job up.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any
from uuid import UUID

from celery import Celery
from kombu.exceptions import OperationalError as BrokerTrouble
from redis.exceptions import RedisError
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from billing.errors import BillingError
from billing.jobs import requests
from billing.ledger import accounts, by_hand
from config.database import DatabaseAway, transaction, utc_now
from tasks import pipeline
from tests.chaos.storm_world import RATES, World

SUBMITTERS = 4
SEND_AGAIN_AFTER_S, SEND_AGAIN_MAX_S = 6.0, 30.0
NOT_LEARNED = (DBAPIError, PoolTimeout, BrokerTrouble, RedisError, OSError)
"""What an app meets while something is away: whether its request was taken in, it does not know."""

RICH, POOR = 1_000_000, 40
OPENING = (RICH, RICH, RICH, POOR, POOR, POOR * 5)
WISHES = 2
"""How many requests ask the provider for each of its faults: rates alone would leave one out now and then."""


@dataclass(frozen=True)
class Order:
    """What an app asks for at once: one request or several, from Python or by message."""

    requests: Sequence[dict[str, Any]]
    by_message: bool = False
    # The app asks the same once more, though it was answered.
    repeated: bool = False
    # The app chooses the jobs' ids.
    names_job: bool = False


@dataclass
class Ledger:
    """What the apps know: their acknowledged jobs by key, and what they met."""

    opening: dict[int, int] = field(default_factory=dict)
    acknowledged: dict[str, UUID] = field(default_factory=dict)
    # The same key answered with two jobs, a refusal, an error nobody expects: each is a fault of the system.
    complaints: list[str] = field(default_factory=list)
    met: Counter[str] = field(default_factory=Counter)
    ways: Counter[str] = field(default_factory=Counter)

    def acknowledge(self, key: str, job_id: UUID) -> None:
        """Note the answer to a request; another job for the same key is a complaint."""
        if self.acknowledged.setdefault(key, job_id) != job_id:
            self.complaints.append(f"key {key} has two jobs: {self.acknowledged[key]} and {job_id}")


def open_accounts() -> dict[int, int]:
    """Several accounts, some of which soon run out of credits; returns what each was given."""
    opening = {}
    for number, credits in enumerate(OPENING):
        with transaction() as session:
            account = accounts.create(session, f"Account {number}")
            by_hand.top_up(
                session, account.id, credits, idempotency_key="opening", description="Opening", now=utc_now()
            )
            opening[account.id] = credits
    return opening


def orders(account_ids: Sequence[int], jobs: int, chance: Random) -> Iterator[Order]:
    """Orders for this many jobs: text and images, single and in batches, from Python and by message."""
    made, wished = 0, dict(zip(chance.sample(range(jobs), WISHES * len(RATES)), [*RATES] * WISHES, strict=True))
    while made < jobs:
        size = min(chance.choice([1, 1, 1, 1, 1, 1, 2, 5]), jobs - made)
        by_message = chance.random() < 0.25
        yield Order(
            [_request(account_ids, number, wished.get(number), chance) for number in range(made, made + size)],
            by_message=by_message,
            repeated=chance.random() < 0.1,
            names_job=chance.random() < 0.5,
        )
        made += size


def _request(account_ids: Sequence[int], number: int, wish: str | None, chance: Random) -> dict[str, Any]:
    weights = [4, 4, 4, 1, 1, 1]
    prompt = f"Bread, number {number}."
    if wish is not None:
        # Of an account that can pay: the request must come to the provider.
        weights, prompt = [1, 1, 1, 0, 0, 0], f"{prompt} [[simulate: {wish} x1]]"
    if wish == "fewer_images" or (wish is None and chance.random() < 0.25):
        operation, params = "image_generation", {"prompt": prompt, "n": chance.choice([1, 1, 2, 4])}
    else:
        operation, params = "clustering", {"prompt": prompt, "max_output_tokens": chance.choice([64, 256, 600])}
    return {
        "account_id": chance.choices(account_ids, weights)[0],
        "operation": operation,
        "params": params,
        "idempotency_key": f"order-{number}",
        "job_id": str(UUID(int=chance.getrandbits(128), version=4)),
    }


@dataclass(frozen=True)
class _Sent:
    """A request that went out as a message, and when the app gives that message up, longer each time."""

    request: dict[str, Any]
    given_up_at: float
    patience_s: float = SEND_AGAIN_AFTER_S


class Traffic:
    """Feeds the orders as the storm goes on, in threads of its own, and goes on until each is acknowledged."""

    def __init__(
        self, world: World, ledger: Ledger, given: Sequence[Order], *, progress: Callable[[], float], seed: int
    ) -> None:
        self.ledger = ledger
        self._world = world
        self._given = given
        self._progress = progress
        self._seed = seed
        self._orders: queue.Queue[Order | None] = queue.Queue()
        self._sent: dict[str, _Sent] = {}
        self._lock = threading.Lock()
        self._app = Celery("another-app", broker=world.environment["BROKER_URL"])
        self._app.conf.broker_transport_options = {"socket_timeout": 5, "socket_connect_timeout": 2}
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._feed, name="feeder", daemon=True),
            threading.Thread(target=self._look_up, name="looker", daemon=True),
            *(
                threading.Thread(target=self._submit_all, args=[number], name=f"submitter-{number}", daemon=True)
                for number in range(SUBMITTERS)
            ),
        ]

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End at once, whatever is still open."""
        self._stop.set()
        for _ in range(SUBMITTERS):
            self._orders.put(None)
        for thread in self._threads:
            thread.join(timeout=40)
        self._app.close()

    @property
    def wanted(self) -> int:
        """How many requests there are in all."""
        return sum(len(order.requests) for order in self._given)

    def all_acknowledged(self) -> bool:
        """Whether every request has its answer."""
        return len(self.ledger.acknowledged) >= self.wanted

    def _feed(self) -> None:
        """Hand out the orders as the storm goes on: all of them by its end."""
        for number, order in enumerate(self._given):
            while self._progress() < number / len(self._given):
                if self._stop.wait(0.05):
                    return
            self._orders.put(order)

    def _submit_all(self, number: int) -> None:
        chance = Random(f"{self._seed} {number}")
        while (order := self._orders.get()) is not None:
            times = 2 if order.repeated else 1
            for _ in range(times):
                if not self._insist(order, chance):
                    return

    def _insist(self, order: Order, chance: Random) -> bool:
        """Submit until it is learned that it was taken in; False when it was not, and the traffic ends."""
        while not self._stop.is_set():
            try:
                self._submit(order)
                return True
            except DatabaseAway as error:
                self.ledger.met[type(error).__name__] += 1
                self._stop.wait(chance.uniform(0.1, 1.0))
            except Exception as error:  # noqa: BLE001 - a refusal, or what no app can expect: it complains, and insists
                code = f" ({error.code})" if isinstance(error, BillingError) else ""
                self.ledger.complaints.append(f"{type(error).__name__}{code}: {str(error)[:200]}")
                self._stop.wait(1.0)
        return False

    def _submit(self, order: Order) -> None:
        if order.by_message:
            for request in order.requests:
                self._send(request)
            return
        if len(order.requests) == 1:
            (request,) = order.requests
            given = {
                name: value for name, value in request.items() if name not in ("account_id", "operation", "params")
            }
            given["job_id"] = UUID(given["job_id"]) if order.names_job else None
            answers = [pipeline.submit(request["account_id"], request["operation"], request["params"], **given)]
        else:
            given_ids = [request if order.names_job else {**request, "job_id": None} for request in order.requests]
            answers = pipeline.submit_many([requests.parse(request) for request in given_ids])
        self.ledger.ways["batch" if len(answers) > 1 else "single"] += len(answers)
        for request, answer in zip(order.requests, answers, strict=True):
            self.ledger.acknowledge(request["idempotency_key"], answer.job_id)

    def _send(self, request: dict[str, Any], patience_s: float = SEND_AGAIN_AFTER_S) -> None:
        """Send a message with a bare Celery client; whatever that meets, the request is looked up and sent again."""
        with self._lock:
            self._sent[request["job_id"]] = _Sent(request, time.monotonic() + patience_s, patience_s)
        try:
            self._app.send_task("generation.submit", kwargs=request, queue="requests")
        except Exception as error:  # noqa: BLE001 - the other app's client has errors of its own
            self.ledger.met[f"message: {type(error).__name__}"] += 1

    def _look_up(self) -> None:
        """Look up what was sent as a message; a job that did not come to be is sent again."""
        while not self._stop.wait(0.5):
            with self._lock:
                waiting = dict(self._sent)
            try:
                found = self._existing(list(waiting))
            except NOT_LEARNED as error:
                self.ledger.met[f"look-up: {type(error).__name__}"] += 1
                continue
            for job_id in found:
                with self._lock:
                    request = self._sent.pop(job_id).request
                self.ledger.ways["message"] += 1
                self.ledger.acknowledge(request["idempotency_key"], UUID(job_id))
            self._send_again([sent for job_id, sent in waiting.items() if job_id not in found])

    def _existing(self, job_ids: list[str]) -> set[str]:
        if not job_ids:
            return set()
        with transaction() as session:
            statement = text("SELECT id FROM generation_jobs WHERE id = ANY(CAST(:ids AS uuid[]))")
            return {str(job_id) for job_id in session.scalars(statement, {"ids": job_ids})}

    def _send_again(self, waiting: Sequence[_Sent]) -> None:
        for sent in waiting:
            if time.monotonic() > sent.given_up_at:
                self._send(sent.request, min(2 * sent.patience_s, SEND_AGAIN_MAX_S))
                self.ledger.ways["message sent again"] += 1
