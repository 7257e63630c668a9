"""Every guard: of the code, by what each room promises, and of the database, by its tables and triggers.

Not listed are conditions that can only speak when another guard is gone: taking them away alone changes nothing.
"""

from __future__ import annotations

from tests.mutation.guard import Guard
from tests.mutation.guards_of_books import OF_BOOKS
from tests.mutation.guards_of_jobs import OF_JOBS
from tests.mutation.guards_of_messages import AROUND_JOBS
from tests.mutation.guards_of_parts import OF_PARTS
from tests.mutation.guards_of_schema import OF_SCHEMA
from tests.mutation.guards_of_settings import OF_ROWS, OF_SETTINGS

OF_CODE: tuple[Guard, ...] = (*OF_JOBS, *OF_PARTS, *AROUND_JOBS, *OF_BOOKS, *OF_SETTINGS)
GUARDS: tuple[Guard, ...] = (*OF_CODE, *OF_SCHEMA, *OF_ROWS)
