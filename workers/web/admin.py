"""What operators change: models, prices, operations, plans, and the settings of the platform and of accounts.

Each answer has an ETag. A change names the one that it was made from (`If-Match`), so that nobody overwrites what
somebody else has changed meanwhile.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

from fastapi import APIRouter, Body, Header, Path, Query, Response
from pydantic_core import to_json, to_jsonable_python
from sqlalchemy.orm import Session

from billing.access.keys import Bearer
from billing.catalog import changing, current, history, views
from billing.errors import BillingError
from billing.ledger import accounts
from billing.plans import plans
from billing.settings import effective, saving
from billing.settings.saving import Owner
from config.database import transaction
from workers.web.identity import Credentials, bearer_of
from workers.web.problems import OF_BODIES, told

READ, WRITE = "admin:read", "admin:write"
router = APIRouter(prefix="/api/v1/admin", tags=["admin"])
CHANGES = told(404, *OF_BODIES, 412, 428)

Facts = dict[str, Any]
Name = Annotated[str, Path(max_length=100)]
AccountId = Annotated[int, Path(ge=1, le=2**63 - 1)]
IfMatch = Annotated[str | None, Header(alias="If-Match", description="The ETag of what is to be changed.")]
Force = Annotated[bool, Query(description="Accept a price that looks like a slip.")]
Fields = Annotated[Facts, Body(description="The fields to change; amounts with decimals may be text.")]


class PreconditionMissing(BillingError):
    """A change has to name what it was made from."""

    code = "precondition_required"


class PreconditionFailed(BillingError):
    """What was to be changed has changed meanwhile."""

    code = "precondition_failed"


@router.get("/models")
def models(credentials: Credentials, response: Response) -> list[Facts]:
    """Every model, in the order in which it is offered."""
    return _listed(credentials, response, lambda session: views.models(session, today=_today(session)))


@router.get("/models/{model}", responses=told(404))
def model(model: Name, credentials: Credentials, response: Response) -> Facts:
    """Everything about a model, its image prices too."""
    return _shown(credentials, response, lambda session: views.model(session, model, today=_today(session)))


@router.patch("/models/{model}", responses=CHANGES)
def set_model(
    model: Name,
    fields: Fields,
    credentials: Credentials,
    response: Response,
    if_match: IfMatch = None,
    force: Force = False,
) -> Facts:
    """Change fields of a model; rates are USD per 1,000,000 tokens."""
    return _changed(
        credentials,
        response,
        if_match,
        lambda session: views.model(session, model, today=_today(session)),
        lambda session: changing.set_model(session, model, fields, force=force),
    )


@router.put("/models/{model}/prices/{size}/{quality}", responses=CHANGES)
def set_image_price(
    model: Name,
    size: Annotated[str, Path(max_length=20, description="Width and height; `*` means any.")],
    quality: Annotated[str, Path(max_length=20, description="Such as `hd`; `*` means any.")],
    fields: Fields,
    credentials: Credentials,
    response: Response,
    if_match: IfMatch = None,
    force: Force = False,
) -> Facts:
    """Set what an image of this model, size and quality costs (`cost_per_image_usd`) and is charged
    (`credits_per_image`); `If-Match` is of the model.
    """
    return _changed(
        credentials,
        response,
        if_match,
        lambda session: views.model(session, model, today=_today(session)),
        lambda session: changing.set_image_price(session, model, size, quality, fields, force=force),
    )


@router.get("/operations")
def operations(credentials: Credentials, response: Response) -> list[Facts]:
    """What every operation costs in credits."""
    return _listed(credentials, response, views.operations)


@router.get("/operations/{operation}", responses=told(404))
def operation(operation: Name, credentials: Credentials, response: Response) -> Facts:
    """What an operation costs in credits, and by which rules on which models."""
    return _shown(credentials, response, lambda session: views.operation(session, operation))


@router.patch("/operations/{operation}", responses=CHANGES)
def set_operation(
    operation: Name,
    fields: Fields,
    credentials: Credentials,
    response: Response,
    if_match: IfMatch = None,
    force: Force = False,
) -> Facts:
    """Change what an operation costs."""
    return _changed(
        credentials,
        response,
        if_match,
        lambda session: views.operation(session, operation),
        lambda session: changing.set_operation(session, operation, fields, force=force),
    )


@router.get("/plans")
def all_plans(credentials: Credentials, response: Response) -> list[Facts]:
    """Every plan, by its price."""
    return _listed(credentials, response, lambda session: [vars(plan) for plan in plans.all_plans(session)])


@router.get("/plans/{plan}", responses=told(404))
def plan(plan: Name, credentials: Credentials, response: Response) -> Facts:
    """What a plan includes and limits."""
    return _shown(credentials, response, lambda session: vars(plans.view(plans.named(session, plan))))


@router.patch("/plans/{plan}", responses=CHANGES)
def set_plan(
    plan: Name, fields: Fields, credentials: Credentials, response: Response, if_match: IfMatch = None
) -> Facts:
    """Change a plan: its own fields, and its limits by their type."""
    return _changed(
        credentials,
        response,
        if_match,
        lambda session: vars(plans.view(plans.named(session, plan))),
        lambda session: plans.set_plan(session, plan, fields),
    )


@router.get("/settings")
def platform_settings(credentials: Credentials, response: Response) -> Facts:
    """The platform's settings: their values, and since when they hold."""
    return _shown(credentials, response, lambda session: effective.effective(session).facts())


@router.patch("/settings", responses=CHANGES)
def set_platform_settings(
    fields: Fields, credentials: Credentials, response: Response, if_match: IfMatch = None
) -> Facts:
    """Change settings of the platform, all or none."""
    return _changed(
        credentials,
        response,
        if_match,
        lambda session: effective.effective(session).facts(),
        lambda session: _save(session, Owner(), fields),
    )


@router.get("/accounts/{account_id}/settings", responses=told(404))
def account_settings(account_id: AccountId, credentials: Credentials, response: Response) -> Facts:
    """What holds for an account, and which tier set it."""
    return _shown(credentials, response, lambda session: effective.effective(session, account_id).facts())


@router.patch("/accounts/{account_id}/settings", responses=CHANGES)
def set_account_settings(
    account_id: AccountId, fields: Fields, credentials: Credentials, response: Response, if_match: IfMatch = None
) -> Facts:
    """Change settings of an account, all or none; null removes one, so that the platform's holds."""
    return _changed(
        credentials,
        response,
        if_match,
        lambda session: effective.effective(session, account_id).facts(),
        lambda session: _save(session, Owner(account_id), fields),
    )


def _save(session: Session, owner: Owner, fields: Mapping[str, Any]) -> None:
    if owner.account_id is not None:
        accounts.get(session, owner.account_id)
    for name, value in fields.items():
        if value is None and owner.account_id is not None:
            saving.unset(session, owner, name)
        else:
            saving.save(session, owner, name, value, today=_today(session))
    session.flush()


def _today(session: Session) -> Any:
    return current.moment(session).today


def _listed(
    credentials: Any, response: Response, view: Callable[[Session], Sequence[Mapping[str, Any]]]
) -> list[Facts]:
    bearer_of(credentials, READ, response)
    with transaction() as session:
        found: list[Facts] = to_jsonable_python(view(session))
    return found


def _shown(credentials: Any, response: Response, view: Callable[[Session], Mapping[str, Any]]) -> Facts:
    bearer_of(credentials, READ, response)
    with transaction() as session:
        return _tagged(view(session), response)


def _changed(
    credentials: Any,
    response: Response,
    if_match: str | None,
    view: Callable[[Session], Mapping[str, Any]],
    change: Callable[[Session], object],
) -> Facts:
    """Change something if it still is what the change was made from; answers with what it is then."""
    who = bearer_of(credentials, WRITE, response)
    if if_match is None:
        raise PreconditionMissing("Name what is to be changed: If-Match, with the ETag that it was shown with.")
    with _acting(who) as session:
        # One change at a time: what is compared is what is changed.
        changing.lock(session)
        now = tag(view(session))
        if if_match != "*" and now not in [each.strip() for each in if_match.split(",")]:
            raise PreconditionFailed("It has changed meanwhile: look at it again.")
        change(session)
        return _tagged(view(session), response)


@contextmanager
def _acting(who: Bearer) -> Iterator[Session]:
    with transaction() as session:
        history.act_as(session, f"api key {who.key_id}")
        yield session


def _tagged(facts: Mapping[str, Any], response: Response) -> Facts:
    response.headers["ETag"] = tag(facts)
    told: Facts = to_jsonable_python(facts)
    return told


def tag(facts: Mapping[str, Any]) -> str:
    """The ETag of what is shown."""
    return f'"{hashlib.sha256(to_json(dict(facts))).hexdigest()[:20]}"'
