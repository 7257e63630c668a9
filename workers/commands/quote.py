"""The command that says what requests, or usages, cost, without submitting them."""

from __future__ import annotations

from typing import Any, TextIO

import click

from billing.errors import BillingError, InvalidRequest
from workers.commands.output import json_line
from workers.commands.reading import json_lines, source


@click.command()
@source
@click.option("--account", "account_id", type=int, help="The account that would pay; requests need one.")
def quote(source: TextIO, account_id: int | None) -> None:
    """Say what requests or usages cost, without submitting them; prints one JSON line each.

    \b
    A request ("operation", "params", ..., as for submit) gets its worst case, the credits that it would reserve; its
    typical charge; the plan limit that it uses; what the account has; and if it would be refused, why.
    A usage ("operation", "model", and "input_tokens", "cached_input_tokens", "output_tokens", "reasoning_tokens", or
    "images", "size", "quality") gets its credits, cost_usd, revenue_usd and margin_usd.
    Exits with 2 when a line has no quote, else with 1 when a request would be refused.

    \b
    Example:  creditmill quote requests.jsonl --account 1
              echo '{"operation": "linking", "input_tokens": 900, "output_tokens": 300}' | creditmill quote
    """
    from workers import bootstrap

    bootstrap.connect("quote")
    wrong = refused = False
    for number, data in json_lines(source):
        try:
            answer = _quote(account_id, data)
        except BillingError as error:
            wrong = True
            answer = {"error": error.code, "message": error.message, **error.facts()}
        refused = refused or answer.get("accepted") is False
        click.echo(json_line({"line": number, **answer}))
    if wrong or refused:
        raise click.exceptions.Exit(2 if wrong else 1)


def _quote(account_id: int | None, data: Any) -> dict[str, Any]:
    from billing.catalog import current
    from billing.jobs import quotes, requests
    from billing.settings import own
    from config.database import transaction

    if not isinstance(data, dict):
        raise InvalidRequest("A request must be a JSON object.")
    with transaction() as session:
        if "params" not in data:
            return vars(quotes.quote_usage(data, at=current.moment(session)))
        if account_id is None:
            raise InvalidRequest("A request is quoted for an account: give --account.", code="no_account")
        submission = requests.parse({**data, "account_id": account_id})
        at = own.moment(session, {(submission.account_id, submission.user_id)})
        return quotes.quote(session, submission, at=at).facts()
