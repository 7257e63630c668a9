"""Settings: what holds for the key's account and user and which tier set it, and changing what is theirs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

from fastapi import APIRouter, Path, Response
from sqlalchemy.orm import Session

from billing.catalog import history
from billing.errors import InvalidRequest
from billing.settings import effective, saving
from billing.settings.saving import Owner
from config.database import database_now, transaction
from config.tenants import reading_as
from workers.web import shapes
from workers.web.identity import Asker, Credentials, asker
from workers.web.problems import OF_BODIES, told

READ, WRITE = "settings:read", "settings:write"
router = APIRouter(prefix="/api/v1", tags=["settings"])

Name = Annotated[str, Path(max_length=100, description="A setting, such as `openai.temperature`.")]


@router.get("/settings")
def show(credentials: Credentials, response: Response) -> dict[str, shapes.Setting]:
    """Each setting that holds for the key's account, and its user if it has one: its value, which tier set it, when."""
    who = asker(credentials, READ, response)
    with reading_as(who.account_id) as session:
        return _effective(session, who)


@router.put("/settings/{setting}", responses=told(404, *OF_BODIES))
def save(setting: Name, body: shapes.SettingValue, credentials: Credentials, response: Response) -> shapes.SavedSetting:
    """Create or change a setting of the account; a key of one user changes none."""
    who = _of_account(asker(credentials, WRITE, response))
    with _acting(who) as session:
        saving.save(session, Owner(who.account_id), setting, body.value, today=database_now(session).date())
        return _saved(session, who, setting)


@router.delete("/settings/{setting}", responses=told(404))
def unset(setting: Name, credentials: Credentials, response: Response) -> shapes.SavedSetting:
    """Remove a setting of the account, so that the platform's holds again; answers with what holds then."""
    who = _of_account(asker(credentials, WRITE, response))
    with _acting(who) as session:
        saving.unset(session, Owner(who.account_id), setting)
        return _saved(session, who, setting)


@router.put("/integrations/{integration}/settings", responses=told(404, *OF_BODIES))
def save_integration(
    integration: Annotated[str, Path(max_length=50, description="Such as `openai`.")],
    body: dict[str, Any],
    credentials: Credentials,
    response: Response,
) -> shapes.SavedIntegration:
    """Change what the account sets of an integration: its model and parameters. What looks like a key is stripped."""
    who = _of_account(asker(credentials, WRITE, response))
    with _acting(who) as session:
        today = database_now(session).date()
        stripped = saving.save_integration(session, who.account_id, integration, body, today=today)
        found = _effective(session, who)
    mine = {name: setting for name, setting in found.items() if name.startswith(f"{integration}.")}
    return shapes.SavedIntegration(settings=mine, stripped=stripped)


@router.post("/system/settings/user/", responses=told(404, *OF_BODIES))
@router.put("/system/settings/user/", responses=told(404, *OF_BODIES), operation_id="save_of_user_put")
def save_of_user(body: shapes.UserSetting, credentials: Credentials, response: Response) -> shapes.SavedSetting:
    """Create or change a setting of the key's user; POST and PUT are the same."""
    who = asker(credentials, WRITE, response)
    if who.bearer.user_id is None:
        raise InvalidRequest("This key is of no user: make one with --user.", code="user_needed")
    with _acting(who) as session:
        owner = Owner(who.account_id, who.bearer.user_id)
        saving.save(session, owner, body.key, body.value, today=database_now(session).date())
        return _saved(session, who, body.key)


@router.delete("/system/settings/user/{setting}", responses=told(404))
def unset_of_user(setting: Name, credentials: Credentials, response: Response) -> shapes.SavedSetting:
    """Remove a setting of the key's user, so that the account's or the platform's holds again."""
    who = asker(credentials, WRITE, response)
    if who.bearer.user_id is None:
        raise InvalidRequest("This key is of no user: make one with --user.", code="user_needed")
    with _acting(who) as session:
        saving.unset(session, Owner(who.account_id, who.bearer.user_id), setting)
        return _saved(session, who, setting)


def _of_account(who: Asker) -> Asker:
    if who.bearer.user_id is not None:
        raise InvalidRequest("A key of one user changes that user's settings only.", code="account_key_needed")
    return who


@contextmanager
def _acting(who: Asker) -> Iterator[Session]:
    with transaction() as session:
        history.act_as(session, f"api key {who.bearer.key_id}")
        yield session


def _effective(session: Session, who: Asker) -> dict[str, shapes.Setting]:
    facts = effective.effective(session, who.account_id, who.bearer.user_id).facts()
    return {name: shapes.Setting.model_validate(each) for name, each in facts.items()}


def _saved(session: Session, who: Asker, name: str) -> shapes.SavedSetting:
    session.flush()
    found = _effective(session, who).get(name)
    return shapes.SavedSetting(
        key=name, account_id=who.account_id, user_id=who.bearer.user_id, **({} if found is None else found.model_dump())
    )
