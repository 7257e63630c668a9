"""Requests that leave things open: which model they take, and what they are filled in with, by the settings."""

from __future__ import annotations

import pytest

from billing.catalog import current
from billing.errors import InvalidRequest
from billing.jobs import quotes, requests, submitting
from billing.settings import own, saving
from billing.settings.saving import Owner
from config.database import single_statements, transaction, utc_now
from tests.catalogue import CLAUDE, TOKEN_IMAGE, change, sql
from tests.factories import HOUR, MINUTE, NOON, a_queued_job, a_reserved_job, a_user, an_account, rows, the_job
from tests.system import wait_until

pytestmark = pytest.mark.usefixtures("db")
TEXT = {"prompt": "bread"}
IMAGE = {"prompt": "A fox."}


def save(name, value, account_id=None, user_id=None):
    with transaction() as session:
        saving.save(session, Owner(account_id, user_id), name, value, today=NOON.date())


def a_text(account_id, **given):
    return the_job(a_queued_job(account_id, params=TEXT | given.pop("params", {}), **given))


def an_image(account_id, **given):
    return the_job(a_queued_job(account_id, "image_generation", params=IMAGE | given.pop("params", {}), **given))


def test_a_request_that_leaves_all_open_takes_the_platforms_settings_and_the_job_says_so():
    job = a_text(an_account())

    assert (job.model_name, job.params) == ("gpt-5.1", TEXT | {"max_output_tokens": 8192})
    assert job.settings_used == {"model": "platform", "max_output_tokens": "platform"}
    assert job.work["max_output_tokens"] == 8192


def test_a_temperature_is_filled_in_where_the_model_takes_one():
    job = a_text(an_account(), model="gpt-4o")

    assert job.params == TEXT | {"max_output_tokens": 8192, "temperature": 0.7}
    assert job.settings_used == {"max_output_tokens": "platform", "temperature": "platform"}


def test_what_the_request_names_is_left_as_it_is():
    account_id = an_account()
    save("openai.temperature", 0.1, account_id)

    job = a_text(account_id, model="gpt-4o", params={"temperature": 1, "max_output_tokens": 64})

    assert (job.params, job.settings_used) == (TEXT | {"temperature": 1, "max_output_tokens": 64}, {})


def test_the_nearest_tier_fills_in_and_the_job_names_it():
    account_id = an_account(10_000)
    user_id = a_user(account_id)
    save("openai.max_tokens", 300)
    save("openai.temperature", 0.2, account_id)
    save("openai.model", "gpt-4o", account_id, user_id)

    of_user, of_account = a_text(account_id, user_id=user_id), a_text(account_id)

    assert of_user.params == TEXT | {"max_output_tokens": 300, "temperature": 0.2}
    assert of_user.model_name == "gpt-4o"
    assert of_user.settings_used == {"model": "user", "max_output_tokens": "platform", "temperature": "account"}
    assert (of_account.model_name, of_account.settings_used["model"]) == ("gpt-5.1", "platform")


@pytest.mark.parametrize(
    ("changed", "model", "tier"),
    [
        ({},                       "claude",  "account"),
        ({"is_active": "false"},   "gpt-5.1", "platform"),
        ({"deprecation_date": f"{NOON.date()}"}, "gpt-5.1", "platform"),
    ],
)  # fmt: skip
def test_an_accounts_choice_of_provider_is_honoured_if_its_model_can_be_used(changed, model, tier):
    change("add_model", "claude", **CLAUDE)
    account_id = an_account()
    save("default_text_provider", "anthropic", account_id)
    if changed:
        change("set_model", "claude", **changed)

    job = a_text(account_id)

    assert (job.model_name, job.settings_used["model"]) == (model, tier)


def test_an_account_without_a_priced_model_of_its_choice_takes_the_platforms():
    account_id = an_account()
    save("default_image_service", "runware", account_id)
    sql("DELETE FROM image_prices p USING ai_model_config m WHERE m.model_name = p.model_name AND provider = 'runware'")

    assert an_image(account_id).model_name == "dall-e-3"


def test_images_take_size_quality_and_style_from_the_settings():
    account_id = an_account()
    save("dalle.size", "1024x1792", account_id)
    save("image_quality", "hd", account_id)
    save("image_style", "natural", account_id)

    job = an_image(account_id)

    assert job.params == IMAGE | {"size": "1024x1792", "quality": "hd", "style": "natural"}
    assert job.settings_used == {"model": "platform", "size": "account", "quality": "account", "style": "account"}
    # What a model does not make or take is another model's.
    other = an_image(account_id, model="runware:97@1")
    assert other.params == IMAGE | {"size": "1024x1024", "style_in_prompt": "natural"}
    assert other.settings_used == {"size": "platform", "style_in_prompt": "account"}


@pytest.mark.parametrize(("style", "kept"), [("noir", {"style_in_prompt": "noir"}), ("none", {})])
def test_a_style_that_the_model_does_not_know_goes_into_the_prompt(style, kept):
    account_id = an_account()
    save("image_style", style, account_id)

    job = an_image(account_id)

    assert {name: value for name, value in job.params.items() if "style" in name} == kept


def test_a_request_may_name_such_a_style_too():
    job = an_image(an_account(), params={"style": "noir"})

    assert job.params == IMAGE | {"size": "1024x1024", "quality": "standard", "style_in_prompt": "noir"}
    assert "style_in_prompt" not in job.settings_used
    assert requests.read_params("image", job.params).told == "A fox.\n\nStyle: noir."


def test_a_prompt_with_its_style_is_held_as_it_is_sent():
    change("add_model", "gpt-image-1", **TOKEN_IMAGE)
    account_id = an_account(10_000)
    plain = an_image(account_id, model="gpt-image-1")
    save("image_style", "none", account_id)

    assert plain.work["input_tokens"] - an_image(account_id, model="gpt-image-1").work["input_tokens"] == 24


def test_more_images_than_the_bound_are_refused_with_the_setting_and_whose_it_is():
    account_id = an_account()
    save("max_in_article_images", 3)
    save("max_in_article_images", 2, account_id)

    assert an_image(account_id, params={"n": 2}).work["images"] == 2
    with pytest.raises(InvalidRequest) as of_account:
        an_image(account_id, params={"n": 3})
    with pytest.raises(InvalidRequest) as of_platform:
        an_image(an_account(), params={"n": 4})

    assert of_account.value.code == of_platform.value.code == "too_many_images"
    assert of_account.value.message == (
        "n is 3; max_in_article_images of the account allows 2 images a request. An operator raises it with "
        "`creditmill settings set max_in_article_images 3 --account ID`."
    )
    assert "of the platform allows 3" in of_platform.value.message
    assert rows("SELECT count(*) FROM generation_jobs") == [(1,)]


def test_a_request_that_comes_again_after_a_change_is_the_same_job():
    account_id = an_account()
    first = a_text(account_id, idempotency_key="k")

    save("openai.model", "gpt-4o", account_id)
    again = a_text(account_id, idempotency_key="k")

    assert (again.id, again.model_name) == (first.id, "gpt-5.1")


def test_the_platforms_next_default_model_is_the_next_jobs_and_no_reserved_ones():
    account_id = an_account()
    reserved, queued = a_reserved_job(account_id), a_queued_job(account_id)
    before = the_job(reserved).price

    save("openai.model", "gpt-4o")

    assert a_text(account_id).model_name == "gpt-4o"
    assert [the_job(each).model_name for each in (reserved, queued)] == ["gpt-5.1", "gpt-5.1"]
    assert the_job(reserved).price == before


def test_a_quote_goes_by_the_accounts_settings():
    account_id = an_account()
    save("openai.max_tokens", 100, account_id)
    submission = requests.parse({"account_id": account_id, "operation": "clustering", "params": TEXT})

    with transaction() as session:
        quoted = quotes.quote(session, submission, at=own.moment(session, {(account_id, None)}))

    assert quoted.credits == a_text(account_id).credits_estimated < a_text(an_account()).credits_estimated


def at_once(account_id):
    data = {"account_id": account_id, "operation": "clustering", "params": TEXT}
    with single_statements() as connection:
        return submitting.submit_at_once(
            connection, requests.parse(data), at=current.kept(utc_now()), deadline=HOUR, publish_by=MINUTE
        )


def test_one_statement_submits_only_for_an_account_without_settings_of_its_own():
    account_id, other = an_account(), an_account()
    a_text(other)
    save("openai.max_tokens", 100, account_id)

    assert at_once(other) is not None
    assert at_once(account_id) is None
    assert rows("SELECT account_id FROM generation_jobs") == [(other,), (other,)]


def test_a_batch_is_not_written_by_settings_that_were_not_read():
    account_id = an_account()
    save("openai.max_tokens", 100, account_id)
    parsed = [requests.parse({"account_id": account_id, "operation": "clustering", "params": TEXT})]

    with pytest.raises(AssertionError, match="were not read"), transaction() as session:
        submitting.submit(session, parsed, at=current.moment(session), deadline=HOUR, publish_by=MINUTE)


def test_a_setting_that_is_saved_meanwhile_keeps_nobody_waiting():
    account_id = an_account()
    with transaction() as session:
        parsed = [requests.parse({"account_id": account_id, "operation": "clustering", "params": TEXT})]
        at = own.moment(session, {(account_id, None)})
        save("openai.max_tokens", 100, account_id)
        submitting.submit(session, parsed, at=at, deadline=HOUR, publish_by=MINUTE)

    assert rows("SELECT params ->> 'max_output_tokens' FROM generation_jobs") == [("8192",)]
    wait_until(lambda: a_text(account_id).params["max_output_tokens"] == 100)
