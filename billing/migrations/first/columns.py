"""The types that the columns of many tables share. Copies on purpose: the code may come to choose others."""

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

INSTANT = sa.DateTime(timezone=True)
USD = sa.Numeric(20, 10)
JSON = postgresql.JSONB()
