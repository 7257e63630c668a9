"""Commands about the connections to the providers: set, show and test them, and encrypt their keys anew."""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING, Any

import click

from config.providers import KEYS, KnownProvider
from workers.commands.assignments import acting
from workers.commands.output import as_json, console, print_json, table
from workers.commands.reading import BYTE_ORDER_MARK

if TYPE_CHECKING:
    from billing.jobs.calling import Refusal
    from config.providers import Connection

TEST_S = 10.0
"""How long a test waits for an answer, in seconds."""
KEY_MAX = 500


@click.group()
def integrations() -> None:
    """Set, show and test the connections to the providers, and encrypt their keys anew."""


@integrations.command("set")
@click.argument("provider", type=click.Choice(KEYS))
@click.option("--base-url", help="Another address than the provider's own: a compatible server, a proxy.")
@click.option("--key-variable", help="Read the key from this environment variable instead of asking for it.")
@click.option(
    "--honours-keys",
    is_flag=True,
    help="The server at --base-url does the work of one Idempotency-Key once: lost requests are sent again to it.",
)
def set_(provider: str, base_url: str | None, key_variable: str | None, honours_keys: bool) -> None:
    """Store a provider's API key, encrypted.

    The key is read from stdin or from a variable, or asked for without echo: it never stands in the arguments, which
    every user of the machine can see. `dalle` is a key of its own for OpenAI's images, at OpenAI's address.

    \b
    Example:  creditmill integrations set openai --key-variable OPENAI_API_KEY
              creditmill integrations set runware < runware.key
    """
    from config.addresses import PROVIDER, read_address
    from config.integrations import set_connection, set_key
    from workers import bootstrap

    bootstrap.connect("integrations")
    if base_url is not None:
        # Before the key is asked for.
        read_address("--base-url", base_url, PROVIDER)
    if honours_keys and (provider != "openai" or base_url is None):
        raise click.UsageError("--honours-keys is for openai with a --base-url: OpenAI itself promises no such thing.")
    if provider not in list(KnownProvider) and base_url is not None:
        raise click.UsageError(f"{provider} has no address of its own: its calls go to that of openai.")
    key = _key(provider, key_variable)
    with acting() as session:
        if provider in list(KnownProvider):
            set_connection(session, provider, api_key=key, base_url=base_url, honours_keys=honours_keys)
        else:
            set_key(session, provider, key)
    click.echo(f"The connection to {provider} is set.")


@integrations.command("show")
@as_json
def show(as_json: bool) -> None:
    """Show which providers have a key, by what it is recognised, and their addresses; never the keys.

    A key is recognised by its fingerprint, a part of its SHA-256, and by its last four characters if it is not short.

    \b
    Example:  creditmill integrations show
    """
    from config.database import transaction
    from config.integrations import configured_providers, keys
    from workers import bootstrap

    bootstrap.connect("integrations")
    with transaction() as session:
        urls, found = configured_providers(session), {key.name: key for key in keys(session)}
    facts: dict[str, dict[str, Any]] = {}
    for name in KEYS:
        key = found.get(name)
        facts[name] = {"has_key": key is not None, "base_url": urls.get(name)}
        if key is not None:
            facts[name] |= {"fingerprint": key.fingerprint, "ends_with": key.ends_with}
    if as_json:
        print_json(facts)
        return
    rows = [
        (name, told["has_key"], told.get("fingerprint"), told.get("ends_with"), told["base_url"] or "its own")
        for name, told in facts.items()
    ]
    console().print(table("Providers", ["provider", "key", "fingerprint", "ends with", "address"], rows, left=5))


@integrations.command()
@as_json
def rotate(as_json: bool) -> None:
    """Encrypt stored keys and messages with the first key of CREDITMILL_SECRET_KEY; they stay what they are.

    Put a new secret key first, start every process with both, rotate, and then take the old one away.

    \b
    Example:  creditmill integrations rotate
    """
    from billing.upkeep import dead_letters
    from billing.webhooks import endpoints
    from config.integrations import rotate_keys
    from workers import bootstrap

    bootstrap.connect("integrations")
    with acting() as session:
        rotated, there = rotate_keys(session)
        messages, failed = dead_letters.rotate(session)
        webhooks = endpoints.rotate_secrets(session)
    if as_json:
        print_json(
            {
                "rotated": rotated,
                "keys": there,
                "messages": messages,
                "unreadable_messages": failed,
                "webhook_secrets": webhooks,
            }
        )
        return
    click.echo(
        f"{rotated} of {there} keys, {messages} set-aside messages and {webhooks} webhook secrets were encrypted anew: "
        "the first secret key decrypts all of them."
    )
    if failed:
        click.echo(
            f"creditmill: {failed} set-aside messages cannot be read with any secret key. [unreadable]", err=True
        )


@integrations.command()
@click.argument("provider", type=click.Choice(KEYS))
@as_json
def test(provider: str, as_json: bool) -> None:
    """Make one real call to a provider that costs nothing, and say how long it took, or what failed.

    \b
    Example:  creditmill integrations test openai
    """
    from config.database import transaction
    from config.integrations import connection_for
    from tasks.providers.base import ProviderError
    from workers import bootstrap

    bootstrap.connect("integrations")
    kind = "image" if provider == "dalle" else "text"
    named = "openai" if provider == "dalle" else provider
    with transaction() as session:
        connection = connection_for(session, named, kind)
    began = time.monotonic()
    refusal = None
    try:
        _check(named, connection)
    except ProviderError as error:
        refusal = error.refusal
    took_ms = round((time.monotonic() - began) * 1000)
    sentence = f"{provider} took the key and answered in {took_ms:,} ms." if refusal is None else _told(refusal)
    if as_json:
        print_json(
            {
                "provider": provider,
                "works": refusal is None,
                "latency_ms": took_ms,
                "error": None if refusal is None else refusal.failure.value,
                "http_status": None if refusal is None else refusal.http_status,
                "message": sentence,
            }
        )
    elif refusal is None:
        click.echo(sentence)
    else:
        click.echo(f"creditmill: {provider}: {sentence} [{refusal.failure.value}]", err=True)
    if refusal is not None:
        raise click.exceptions.Exit(1)


def _check(provider: str, connection: Connection) -> None:
    from workers import bootstrap

    known = KnownProvider(provider)
    if not known.adapter:
        raise click.UsageError(f"{provider} cannot be called yet.")
    bootstrap.adapter(known).check(connection, timeout_s=TEST_S)


def _told(refusal: Refusal) -> str:
    """What failed, in one sentence; nothing of what the provider wrote is in it but its code."""
    from billing.jobs.policy import SENTENCES, Failure

    sentences = {
        Failure.TIMED_OUT: f"No answer came within {TEST_S:g} s.",
        Failure.CONNECTION_LOST: "The connection broke before an answer came.",
        Failure.UNREACHABLE: "Nothing answers at its address, or its name is not known: check the network and the "
        "address.",
        Failure.GATEWAY_ERROR: "A gateway answered instead of the provider.",
        Failure.BAD_REQUEST: "What answers at its address does not know the request: check the address.",
        Failure.UNREADABLE_ANSWER: "What answers at its address is not the provider: check the address.",
    }
    sentence = sentences.get(refusal.failure, SENTENCES[refusal.failure])
    seen = [f"HTTP {refusal.http_status}" if refusal.http_status else "", refusal.provider_code or ""]
    told = ", ".join(each for each in seen if each)
    return f"{sentence[:-1]} ({told})." if told else sentence


def _key(provider: str, variable: str | None) -> str:
    """The key, from the variable, from stdin, or as it is typed; raises UsageError for what is none."""
    if variable is not None:
        key = os.environ.get(variable, "")
    elif sys.stdin.isatty():
        key = click.prompt(f"API key for {provider}", hide_input=True, default="", show_default=False)
    else:
        key = sys.stdin.read(10 * KEY_MAX)
    key = key.removeprefix(BYTE_ORDER_MARK).strip()
    if not key or not key.isascii() or not key.isprintable() or len(key) > KEY_MAX:
        raise click.UsageError("The API key is empty or not a key.")
    return key
