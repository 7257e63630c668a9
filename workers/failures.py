"""What a command says about an error: a code, one sentence, and the exit code of its process."""

from __future__ import annotations

from typing import NamedTuple

from sqlalchemy.exc import DBAPIError, OperationalError

from billing.errors import BillingError
from config.addresses import AddressError
from config.database import DatabaseAway
from config.settings import ConfigurationError, SettingError
from workers.local.embedded.server import EmbeddedServerError
from workers.local.supervisor import SupervisorError

TRY_AGAIN = ("40001", "40P01", "55P03")
"""PostgreSQL's codes for a serialization failure, a deadlock and a lock that was not available in time."""
OUR_ERRORS = (ConfigurationError, DatabaseAway, EmbeddedServerError, SupervisorError)
BAD_INPUT, FAILED = 2, 1


class Told(NamedTuple):
    """What is said about an error, and what its process exits with."""

    code: str
    sentence: str
    exit_code: int


def told(error: Exception) -> Told | None:
    """What to say about this error; None for an unexpected one."""
    if isinstance(error, BillingError):
        return Told(error.code, error.message, BAD_INPUT)
    if isinstance(error, SettingError | AddressError):
        return Told(error.code, str(error), BAD_INPUT)
    if isinstance(error, OUR_ERRORS):
        return Told(getattr(error, "code", "environment_error"), str(error), FAILED)
    if isinstance(error, OperationalError):
        return Told(*_trouble(error), FAILED)
    if isinstance(error, DBAPIError):
        sentence = f"The database refused a statement ({type(error.orig).__name__}): run `creditmill doctor`."
        return Told("database_error", sentence, FAILED)
    if isinstance(error, PermissionError | FileExistsError | NotADirectoryError):
        return Told("folder_unusable", f"{error.filename} cannot be used: {error.strerror}.", FAILED)
    return None


def _trouble(error: OperationalError) -> tuple[str, str]:
    if getattr(error.orig, "pgcode", None) in TRY_AGAIN:
        return "try_again", "Somebody else is changing the same thing: try again."
    return "database_unreachable", "The database cannot be reached: check DATABASE_URL, or run `creditmill doctor`."
