"""Webhooks: where an account is told of events, what it was told, and having it told again."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Path, Query, Response

from billing.webhooks import deliveries, endpoints
from billing.webhooks.endpoints import NewSecret
from config.database import database_now, transaction
from config.tenants import reading_as
from tasks.runtime import runtime
from workers.web import shapes
from workers.web.identity import Credentials, asker
from workers.web.problems import OF_BODIES, told

SCOPE = "webhooks:write"
router = APIRouter(prefix="/api/v1/webhooks", tags=["webhooks"])

EndpointId = Annotated[UUID, Path(description="The endpoint, as its creation named it.")]


@router.post("/endpoints", status_code=201, responses=told(*OF_BODIES))
def create(body: shapes.EndpointRequest, credentials: Credentials, response: Response) -> shapes.NewEndpoint:
    """Add an endpoint; its secret is shown once. What is sent is signed by Standard Webhooks."""
    who = asker(credentials, SCOPE, response)
    with transaction() as session:
        made = endpoints.create(
            session,
            who.account_id,
            body.url,
            events=body.events,
            balance_threshold=body.balance_threshold,
            limit_threshold_percent=body.limit_threshold_percent,
            plain=runtime().settings.webhooks_to_private,
        )
    return _told_once(made)


@router.get("/endpoints")
def list_(credentials: Credentials, response: Response) -> shapes.Endpoints:
    """The account's endpoints, without their secrets."""
    who = asker(credentials, SCOPE, response)
    with transaction() as session:
        found = endpoints.of_account(session, who.account_id)
    return shapes.Endpoints(endpoints=[shapes.Endpoint.model_validate(each) for each in found])


@router.delete("/endpoints/{endpoint_id}", status_code=204, responses=told(404))
def remove(endpoint_id: EndpointId, credentials: Credentials, response: Response) -> None:
    """Remove an endpoint, and what was to be told to it."""
    who = asker(credentials, SCOPE, response)
    with transaction() as session:
        endpoints.remove(session, endpoint_id, account_id=who.account_id)


@router.post("/endpoints/{endpoint_id}/rotate", responses=told(404, *OF_BODIES))
def rotate(
    endpoint_id: EndpointId,
    credentials: Credentials,
    response: Response,
    overlap_hours: Annotated[int, Query(ge=0, le=720, description="How long both secrets sign.")] = 24,
) -> shapes.NewEndpoint:
    """Make a new secret; for a while, what is sent is signed with the old one too."""
    who = asker(credentials, SCOPE, response)
    with transaction() as session:
        made = endpoints.rotate(
            session,
            endpoint_id,
            overlap=timedelta(hours=overlap_hours),
            now=database_now(session),
            account_id=who.account_id,
        )
    return _told_once(made)


@router.get("/messages")
def messages(
    credentials: Credentials,
    response: Response,
    state: Annotated[Literal["pending", "delivered", "dead"] | None, Query(description="Only those.")] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    cursor: Annotated[str | None, Query(description="`next` of the page before.", max_length=500)] = None,
) -> shapes.Messages:
    """What the account was told, or is to be told, the newest first; `dead` is what was given up after three days."""
    who = asker(credentials, SCOPE, response)
    with reading_as(who.account_id) as session:
        page = deliveries.newest(session, account_id=who.account_id, state=state, limit=limit, after=cursor)
    return shapes.Messages(messages=[shapes.Message.model_validate(each) for each in page.rows], next=page.next)


@router.post("/messages/{message_id}/replay", status_code=202, responses=told(404, *OF_BODIES))
def replay(
    message_id: Annotated[int, Path(ge=1, le=2**63 - 1)], credentials: Credentials, response: Response
) -> shapes.Replayed:
    """Have a message delivered (again), under the same `webhook-id`."""
    who = asker(credentials, SCOPE, response)
    with transaction() as session:
        deliveries.replay(session, message_id, account_id=who.account_id, now=database_now(session))
    return shapes.Replayed(id=message_id)


def _told_once(made: NewSecret) -> shapes.NewEndpoint:
    return shapes.NewEndpoint(secret=made.secret, endpoint=shapes.Endpoint.model_validate(made.view))
