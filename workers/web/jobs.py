"""Jobs: submitted, waited for, listed, cancelled; their results, receipts and quotes."""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Header, Path, Query, Request, Response
from fastapi.concurrency import run_in_threadpool

from billing.errors import BillingError, InvalidRequest, UnknownThing
from billing.jobs import cancelling, quotes, receipts, requests, story
from billing.jobs.admitting import Source, keys_of
from billing.jobs.requests import Submission
from billing.jobs.states import TERMINAL, State
from billing.jobs.story import JobView
from billing.settings import own
from config.database import database_now, transaction
from config.tenants import reading_as
from tasks import pipeline
from workers.web import shapes
from workers.web.identity import Asker, Credentials, asker
from workers.web.money import balance_headers, told_with_renewal
from workers.web.problems import OF_BODIES, NoResult, told
from workers.web.waiting import LOOK_EVERY_S, Endings

KEY_MAX = 190
WAIT_MAX_S = 60
router = APIRouter(prefix="/api/v1", tags=["jobs"])

JobId = Annotated[UUID, Path(description="The job, as its submission named it.")]
IdempotencyKey = Annotated[
    str,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=KEY_MAX,
        description="The same key and body again is the same job, however often it is sent.",
    ),
]


@router.post("/jobs", status_code=202, responses=told(402, *OF_BODIES, 422))
def submit(
    body: shapes.JobRequest | shapes.BatchRequest,
    credentials: Credentials,
    idempotency_key: IdempotencyKey,
    response: Response,
) -> shapes.Accepted | shapes.AcceptedBatch:
    """Submit a job, or up to 500 as `jobs`: all are taken, or none. What cannot be paid is refused at once (402)."""
    who = asker(credentials, "jobs:write", response)
    asked = body.jobs if isinstance(body, shapes.BatchRequest) else [body]
    wanted = [
        _submission(who, each, key) for each, key in zip(asked, keys_of(idempotency_key, len(asked)), strict=True)
    ]
    source = Source(who.bearer.key_id, idempotency_key)
    try:
        jobs = pipeline.submit_many(wanted, source=source)
    except BillingError as error:
        raise told_with_renewal(error, who.account_id) from None
    if not any(job.created for job in jobs):
        response.headers["Idempotency-Replayed"] = "true"
    response.headers.update(balance_headers(who.account_id))
    accepted = [shapes.Accepted(job_id=job.job_id, url=f"/api/v1/jobs/{job.job_id}") for job in jobs]
    return shapes.AcceptedBatch(jobs=accepted) if isinstance(body, shapes.BatchRequest) else accepted[0]


@router.get("/jobs")
def list_(
    credentials: Credentials,
    response: Response,
    state: Annotated[State | None, Query(description="Only jobs in this state.")] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    cursor: Annotated[str | None, Query(description="`next` of the page before.", max_length=500)] = None,
) -> shapes.Jobs:
    """List the account's jobs, the newest first, page by page."""
    who = asker(credentials, "jobs:read", response)
    with reading_as(who.account_id) as session:
        page = story.newest(session, account_id=who.account_id, state=state, limit=limit, after=cursor)
    return shapes.Jobs(jobs=[_job(job) for job in page.rows], next=page.next)


@router.get("/jobs/{job_id}", responses=told(404))
async def show(
    job_id: JobId,
    credentials: Credentials,
    request: Request,
    response: Response,
    wait: Annotated[float, Query(ge=0, le=WAIT_MAX_S, description="Seconds to wait for the job's end.")] = 0,
) -> shapes.Job:
    """Show a job; with `wait`, as soon as it is finished, or as it is after so many seconds."""
    who = await run_in_threadpool(asker, credentials, "jobs:read", response)
    waiting: Endings = request.app.state.endings
    with waiting.of(job_id) as ended:
        job = await run_in_threadpool(_view, who.account_id, job_id)
        left = wait
        while job.state not in TERMINAL and left > 0 and not await request.is_disconnected():
            left -= await waiting.pause(ended, min(left, LOOK_EVERY_S))
            job = await run_in_threadpool(_view, who.account_id, job_id)
    return _job(job)


@router.post("/jobs/{job_id}/cancel", responses=told(404, *OF_BODIES, 409))
def cancel(job_id: JobId, credentials: Credentials, response: Response) -> shapes.Job:
    """Cancel a job that is not being sent to its provider; its credits are released."""
    who = asker(credentials, "jobs:write", response)
    with transaction() as session:
        cancelling.cancel(session, job_id, account_id=who.account_id, now=database_now(session))
    pipeline.tell([job_id])
    response.headers.update(balance_headers(who.account_id))
    return _job(_view(who.account_id, job_id))


@router.get("/jobs/{job_id}/result", responses=told(404, 409))
def result(job_id: JobId, credentials: Credentials, response: Response) -> shapes.Result:
    """What was generated; 409 while there is nothing."""
    who = asker(credentials, "jobs:read", response)
    with reading_as(who.account_id) as session:
        job = _found(story.views(session, [job_id]), job_id)
        content = story.result(session, job_id)
    if content is None:
        ended = job.state in TERMINAL
        raise NoResult(f"The job is {job.state} and has no result{'' if ended else ' yet'}.")
    return shapes.Result(job_id=job_id, content=content)


@router.get("/jobs/{job_id}/receipt", responses=told(404))
def receipt(job_id: JobId, credentials: Credentials, response: Response) -> shapes.Receipt:
    """How the charge follows from what was used, with the arithmetic in words."""
    who = asker(credentials, "jobs:read", response)
    with reading_as(who.account_id) as session:
        return shapes.Receipt.model_validate(receipts.receipt(session, job_id, for_customer=True))


@router.post("/quotes", responses=told(*OF_BODIES))
def quote(body: shapes.JobRequest, credentials: Credentials, response: Response) -> shapes.Quote:
    """Say what a request would hold at most and probably be charged, and if it would be refused, why."""
    who = asker(credentials, "jobs:write", response)
    wanted = _submission(who, body, None)
    with transaction() as session:
        at = own.moment(session, {(wanted.account_id, wanted.user_id)})
        facts = quotes.quote(session, wanted, at=at).facts()
    facts["held"] = facts.pop("reserved")
    return shapes.Quote.model_validate(facts)


def _submission(who: Asker, body: shapes.JobRequest, idempotency_key: str | None) -> Submission:
    data: dict[str, Any] = body.model_dump()
    payer = {"account_id": who.account_id, "user_id": who.bearer.user_id, "idempotency_key": idempotency_key}
    if idempotency_key is not None and not idempotency_key.isprintable():
        raise InvalidRequest("An idempotency key has printable characters only.", code="invalid_text")
    return requests.parse(data | payer)


def _view(account_id: int, job_id: UUID) -> JobView:
    with reading_as(account_id) as session:
        return _found(story.views(session, [job_id]), job_id)


def _found(views: dict[UUID, JobView], job_id: UUID) -> JobView:
    if job_id not in views:
        raise UnknownThing("job", job_id)
    return views[job_id]


def _job(job: JobView) -> shapes.Job:
    told = {name: getattr(job, name) for name in shapes.Job.model_fields if name not in ("credits_held", "error")}
    error = None if job.error_code is None else shapes.Fault(code=job.error_code, message=job.error_message)
    held = 0 if job.state in TERMINAL else job.credits_reserved
    return shapes.Job(**told, credits_held=held, error=error)
