"""Commands for operators: is everything well, do the books balance, which providers can be called."""

from __future__ import annotations

import os

import click

from config.providers import KnownProvider
from workers.commands.output import as_json, console, print_json, table
from workers.commands.reading import BYTE_ORDER_MARK


@click.command("audit")
@as_json
def audit_(as_json: bool) -> None:
    """Check the books; exits with 0 only when they balance."""
    from billing.reports import audit
    from config.database import database_now, transaction
    from workers import bootstrap

    bootstrap.connect("audit")
    with transaction(isolation="REPEATABLE READ", read_only=True) as session:
        findings = audit.audit(session, now=database_now(session))
    if as_json:
        print_json({"balanced": not findings, "findings": [vars(finding) for finding in findings]})
    elif findings:
        rows = [(finding.rule, finding.row, finding.problem) for finding in findings]
        console().print(table("The books do not balance", ["rule", "row", "problem"], rows, left=3))
    else:
        click.echo(f"The books balance: {len(audit.RULES)} rules hold.")
    if findings:
        raise click.exceptions.Exit(1)


@click.command()
@click.option("--new-key", is_flag=True, help="Print a fresh key for CREDITMILL_SECRET_KEY and do nothing else.")
@as_json
def doctor(new_key: bool, as_json: bool) -> None:
    """Check database, migrations, broker, workers, keys and clock, and say what to do about each problem."""
    from config.secrets import new_secret_key
    from workers.health.doctor import examine

    if new_key:
        click.echo(new_secret_key())
        return
    checks = examine()
    if as_json:
        print_json({"healthy": all(check.healthy for check in checks), "checks": [vars(check) for check in checks]})
    else:
        for check in checks:
            click.echo(f"{'ok ' if check.healthy else 'BAD'}  {check.name:<12} {check.sentence}")
    if not all(check.healthy for check in checks):
        # Without its settings, nothing was looked at.
        raise click.exceptions.Exit(1 if checks[0].healthy else 2)


@click.command()
@as_json
def metrics(as_json: bool) -> None:
    """Print the system's figures in Prometheus's text format: waiting work, set-aside messages, the last audit.

    \b
    Example:  creditmill metrics > /var/lib/node_exporter/creditmill.prom.new
    """
    from workers import bootstrap
    from workers.health.metrics import exposition, measure

    figures = measure(bootstrap.publishing_command("metrics"))
    if as_json:
        for figure in figures:
            print_json({"name": figure.name, "labels": figure.labels, "value": figure.value})
        return
    click.echo(exposition(figures), nl=False)


@click.group()
def integrations() -> None:
    """Set and show the connections to the providers."""


@integrations.command("set")
@click.argument("provider", type=click.Choice([str(known) for known in KnownProvider]))
@click.option("--base-url", help="Another address than the provider's own: a compatible server, a proxy.")
@click.option("--key-variable", help="Read the key from this environment variable instead of asking for it.")
@click.option(
    "--honours-keys",
    is_flag=True,
    help="The server at --base-url does the work of one Idempotency-Key once: lost requests are sent again to it.",
)
def set_(provider: str, base_url: str | None, key_variable: str | None, honours_keys: bool) -> None:
    """Store a provider's API key, encrypted.

    The key is asked for without echo, or read from a variable: it never stands in the arguments, which every user of
    the machine can see.

    \b
    Example:  creditmill integrations set openai --key-variable OPENAI_API_KEY
    """
    from config.addresses import PROVIDER, read_address
    from config.database import transaction
    from config.integrations import set_connection
    from workers import bootstrap

    bootstrap.connect("integrations")
    if base_url is not None:
        # Before the key is asked for.
        read_address("--base-url", base_url, PROVIDER)
    if honours_keys and (provider != "openai" or base_url is None):
        raise click.UsageError("--honours-keys is for openai with a --base-url: OpenAI itself promises no such thing.")
    if key_variable is not None:
        key = os.environ.get(key_variable, "")
    else:
        key = click.prompt(f"API key for {provider}", hide_input=True, default="", show_default=False)
    key = key.removeprefix(BYTE_ORDER_MARK)
    if not key.strip() or not key.isascii() or not key.isprintable() or len(key) > 500:
        raise click.UsageError("The API key is empty or not a key.")
    with transaction() as session:
        set_connection(session, provider, api_key=key.strip(), base_url=base_url, honours_keys=honours_keys)
    click.echo(f"The connection to {provider} is set.")


@integrations.command("show")
@as_json
def show(as_json: bool) -> None:
    """Show which providers have a key, and their addresses; never the keys."""
    from config.database import transaction
    from config.integrations import configured_providers
    from workers import bootstrap

    bootstrap.connect("integrations")
    with transaction() as session:
        found = configured_providers(session)
    if as_json:
        print_json({name: {"has_key": name in found, "base_url": found.get(name)} for name in map(str, KnownProvider)})
        return
    rows = [(name, name in found, found.get(name) or "its own") for name in map(str, KnownProvider)]
    console().print(table("Providers", ["provider", "key", "address"], rows, left=3))
