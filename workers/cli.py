"""`creditmill`: the command line. Commands are grouped by what they are about; this module puts them together.

Whatever goes wrong is one sentence on stderr: exit code 2 for bad input, 1 for something that failed.
"""

from __future__ import annotations

import sys

import click
from sqlalchemy.exc import DBAPIError, OperationalError

from billing.errors import BillingError
from config.database import DatabaseAway
from config.logging import configure_logging, scrub
from config.settings import ConfigurationError
from workers.commands import accounts, jobs, models, operate, operations, processes, quote, revenue, subscriptions
from workers.local import instance
from workers.local.embedded import EmbeddedServerError
from workers.local.supervisor import SupervisorError

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
TRY_AGAIN = ("40001", "40P01", "55P03")
"""PostgreSQL's codes for a serialization failure, a deadlock and a lock that was not available in time."""
OUR_ERRORS = (ConfigurationError, DatabaseAway, EmbeddedServerError, SupervisorError)


@click.group(context_settings=CONTEXT)
@click.version_option(package_name="creditmill")
def creditmill() -> None:
    """Bills AI generation: reserves credits, calls the provider, settles the actual cost, refunds failures.

    \b
    See it work:            creditmill demo
    Run it on this machine: creditmill up
    Find out what is wrong: creditmill doctor
    """


for group in (
    processes,
    accounts,
    jobs,
    quote,
    models,
    operations,
    subscriptions,
    revenue,
    operate,
):
    for command in group.COMMANDS:
        creditmill.add_command(command)


def main() -> None:
    """Run a command; the entry point of the `creditmill` script."""
    configure_logging("WARNING")
    if not {"up", "demo"} & set(sys.argv[1:2]):
        # Those two run an instance of their own; all others work with the one that runs here.
        instance.join(instance.folder())
    try:
        # Outside its standalone mode, click returns the code that a command exits with.
        sys.exit(creditmill.main(prog_name="creditmill", standalone_mode=False) or 0)
    except click.exceptions.Abort:
        _say("interrupted", "Stopped before it was finished.")
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except BillingError as error:
        _say(error.code, error.message)
        sys.exit(2)
    except OUR_ERRORS as error:
        _say(getattr(error, "code", "environment_error"), str(error))
        sys.exit(1)
    except OperationalError as error:
        _say(*_trouble(error))
        sys.exit(1)
    except DBAPIError as error:
        _say(
            "database_error",
            f"The database refused a statement ({type(error.orig).__name__}): run `creditmill doctor`.",
        )
        sys.exit(1)
    except (PermissionError, FileExistsError, NotADirectoryError) as error:
        _say("folder_unusable", f"{error.filename} cannot be used: {error.strerror}.")
        sys.exit(1)
    except BrokenPipeError:
        # Whoever read our output has seen enough.
        sys.stderr.close()
        sys.exit(141)


def _trouble(error: OperationalError) -> tuple[str, str]:
    if getattr(error.orig, "pgcode", None) in TRY_AGAIN:
        return "try_again", "Somebody else is changing the same thing: try again."
    return "database_unreachable", "The database cannot be reached: check DATABASE_URL, or run `creditmill doctor`."


def _say(code: str, sentence: str) -> None:
    click.echo(scrub(f"creditmill: {sentence} [{code}]"), err=True)


if __name__ == "__main__":
    main()
