"""`creditmill`: the command line. It knows each command's name, place and short help, and imports what is asked for.

Whatever goes wrong is one sentence on stderr: exit code 2 for bad input, 1 for something that failed.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import NamedTuple

import click

from workers.local import instance

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


class Entry(NamedTuple):
    """Where a command is, as `module:name`, and its short help."""

    place: str
    short_help: str


COMMANDS = {
    "accounts": Entry(
        "workers.commands.accounts:group",
        "Create accounts, show them, put credits into them, freeze them, see what time will bring.",
    ),
    "api": Entry("workers.commands.processes:api", "Run the HTTP API, which apps submit jobs to and are answered by."),
    "audit": Entry("workers.commands.operate:audit_", "Check the books; exits with 0 only when they balance."),
    "beat": Entry("workers.commands.processes:beat", "Run beat, which sends the periodic tasks."),
    "demo": Entry(
        "workers.commands.processes:demo",
        "Bill real requests end to end on this machine, with faults, and check the books.",
    ),
    "doctor": Entry(
        "workers.commands.operate:doctor",
        "Check database, migrations, broker, workers, keys and clock, and say what to do about each problem.",
    ),
    "flower": Entry("workers.commands.processes:flower", "Run Flower, the operators' view of the queues."),
    "integrations": Entry(
        "workers.commands.integrations:integrations",
        "Set, show and test the connections to the providers, and encrypt their keys anew.",
    ),
    "jobs": Entry(
        "workers.commands.jobs:jobs",
        "List jobs, tell the story of one, cancel one, resolve one whose outcome is not known.",
    ),
    "keys": Entry(
        "workers.commands.keys:keys", "Make, list, rotate and revoke the keys that apps call the HTTP API with."
    ),
    "metrics": Entry(
        "workers.commands.operate:metrics",
        "Print the system's figures in Prometheus's text format: waiting work, set-aside messages, the last audit.",
    ),
    "migrate": Entry("workers.commands.processes:migrate", "Bring the database's schema up to date."),
    "models": Entry(
        "workers.commands.models:models",
        "List and change models and their prices, check what they earn, try prices out.",
    ),
    "operations": Entry(
        "workers.commands.operations:operations",
        "List and change what operations cost in credits, and the platform's defaults.",
    ),
    "plans": Entry(
        "workers.commands.subscriptions:group",
        "List and change plans, subscribe accounts to them, and see what is left of their limits.",
    ),
    "quote": Entry(
        "workers.commands.quote:quote",
        "Say what requests or usages cost, without submitting them; prints one JSON line each.",
    ),
    "revenue": Entry(
        "workers.commands.revenue:group", "Report what came in and what it cost, and compute the roll-ups anew."
    ),
    "settings": Entry(
        "workers.commands.settings:settings",
        "Show and change the settings of the platform, an account or a user, and which tier set each.",
    ),
    "simulator": Entry(
        "workers.commands.processes:simulator",
        "Run the simulated provider alone (see `creditmill simulator --help`).",
    ),
    "submit": Entry(
        "workers.commands.submit:submit",
        "Submit requests, as JSON lines from a file or stdin; prints one JSON line per job.",
    ),
    "up": Entry(
        "workers.commands.processes:up",
        "Run everything on this machine until Ctrl-C: servers, workers, beat, the HTTP API and Flower.",
    ),
    "users": Entry("workers.commands.users:users", "Add users to accounts, and list them."),
    "webhooks": Entry(
        "workers.commands.webhooks:webhooks",
        "Set up webhooks of accounts, see what they were told, and have it told again.",
    ),
    "worker": Entry("workers.commands.processes:worker", "Run a worker process."),
}


class LazyGroup(click.Group):
    """A group whose commands are imported when one is asked for: the list of them needs their short helps only."""

    def list_commands(self, context: click.Context) -> list[str]:
        """The names of all commands."""
        return sorted(COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        """The command of this name, imported now."""
        if name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[name].place.partition(":")
        found: click.Command = getattr(import_module(module), attribute)
        return found

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands with their short helps, and import none of them."""
        limit = formatter.width - 6 - max(map(len, COMMANDS))
        rows = [
            (name, click.Command(name, help=entry.short_help).get_short_help_str(limit))
            for name, entry in sorted(COMMANDS.items())
        ]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


@click.group(cls=LazyGroup, context_settings=CONTEXT)
@click.version_option(package_name="creditmill")
def creditmill() -> None:
    """Bills AI generation: reserves credits, calls the provider, settles the actual cost, refunds failures.

    \b
    See it work:            creditmill demo
    Run it on this machine: creditmill up
    Find out what is wrong: creditmill doctor
    """


def main() -> None:
    """Run a command; the entry point of the `creditmill` script."""
    if not {"up", "demo"} & set(sys.argv[1:2]):
        # Those two run an instance of their own; all others work with the one that runs here.
        instance.join(instance.folder())
    try:
        # Outside its standalone mode, click returns the code that a command exits with.
        sys.exit(creditmill.main(prog_name="creditmill", standalone_mode=False) or 0)
    except click.exceptions.Abort:
        _say("interrupted", "Stopped before it was finished.")
        sys.exit(130)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(error.exit_code)
    except click.ClickException as error:
        from workers import mistakes

        _say(mistakes.code_of(error), mistakes.sentence_of(error))
        sys.exit(error.exit_code)
    except BrokenPipeError:
        # The reader of our output has seen enough.
        sys.stderr.close()
        sys.exit(141)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is told, and without secrets
        # `failures` imports the modules whose errors it tells apart: a command that succeeds does without them.
        from workers import failures

        told = failures.told(error)
        if told is None:
            _trace(error)
            sys.exit(1)
        _say(told.code, told.sentence)
        sys.exit(told.exit_code)


def _trace(error: Exception) -> None:
    """Print an error that nobody expected, for whoever is to mend it; its text may quote a secret."""
    from traceback import format_exception

    from config.logging import scrub

    click.echo(scrub("".join(format_exception(error))), err=True, nl=False)


def _say(code: str, sentence: str) -> None:
    from config.logging import scrub

    click.echo(scrub(f"creditmill: {sentence} [{code}]"), err=True)


if __name__ == "__main__":
    main()
