"""The whole schema: this module imports every module that defines tables.

Tables refer to each other by name, so a process that writes any of them must have imported all of them.
"""

from __future__ import annotations

import billing.access.tables
import billing.catalog.tables
import billing.jobs.tables
import billing.ledger.tables
import billing.plans.tables
import billing.reports.tables
import billing.upkeep.tables
import billing.webhooks.tables
import config.integrations
import config.tiers.tables

TABLES = (
    billing.access.tables,
    billing.catalog.tables,
    billing.jobs.tables,
    billing.ledger.tables,
    billing.plans.tables,
    billing.reports.tables,
    billing.upkeep.tables,
    billing.webhooks.tables,
    config.integrations,
    config.tiers.tables,
)
"""The modules that define tables."""
