"""Commands for operators: is everything well, do the books balance."""

from __future__ import annotations

import click

from workers.commands.output import as_json, console, print_json, table


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
        click.echo(f"The books balance: {audit.PROMISES} rules hold.")
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
