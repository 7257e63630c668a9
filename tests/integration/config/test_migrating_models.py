"""What the migrations make of the models of an installation that has some of its own."""

from __future__ import annotations

import pytest
from alembic import command
from sqlalchemy import create_engine, text

from billing import migrating
from config import database
from tests.conftest import named

# As operators added them before models named their parameters.
MODELS = """
    INSERT INTO ai_model_config (model_name, display_name, model_type, provider, api)
    SELECT name, name, 'image', provider, 'images' FROM (VALUES
        ('dall-e-2', 'openai'), ('gpt-image-1.5', 'openai'), ('painter', 'openai'), ('plain', 'openai'),
        ('runware:100@1', 'runware')) v(name, provider)
"""
PRICES = """
    INSERT INTO image_prices (model_name, quality, cost_per_image_usd, credits_per_image)
    SELECT name, quality, 0.04, 5 FROM (VALUES
        ('painter', 'fine'), ('painter', 'coarse'), ('painter', '*'), ('plain', '*'), ('runware:100@1', 'standard')
    ) v(name, quality)
"""
TAKES = {
    "dall-e-2": (["standard"], None),
    "dall-e-3": (["standard", "hd"], ["vivid", "natural"]),
    "gpt-image-1.5": (["auto", "low", "medium", "high"], None),
    "google:4@2": (None, None),
    "painter": (["coarse", "fine"], None),
    "plain": (None, None),
    "runware:97@1": (None, None),
    "runware:100@1": (None, None),
}


@pytest.fixture
def older(servers):
    """A database as it was before models named their parameters, with models of its own."""
    administer = create_engine(servers.database_url, isolation_level="AUTOCOMMIT")
    with administer.connect() as connection:
        connection.execute(text("CREATE DATABASE older"))
    engine = database.make_engine(named(servers.database_url, "older"))
    with engine.begin() as connection:
        command.upgrade(migrating._config(connection), "0004_lists")
        for statement in (MODELS, PRICES):
            connection.execute(text(statement))
    yield engine
    engine.dispose()
    with administer.connect() as connection:
        connection.execute(text("DROP DATABASE older WITH (FORCE)"))
    administer.dispose()


def test_the_models_of_an_installation_take_what_they_are_known_to_take(older):
    migrating.migrate(older)

    with older.connect() as connection:
        found = connection.execute(
            text("SELECT model_name, valid_qualities, valid_styles FROM ai_model_config WHERE model_type = 'image'")
        )
        assert {name: (qualities, styles) for name, qualities, styles in found} == TAKES


def test_a_process_that_keeps_the_catalogue_hears_of_it(older):
    with older.connect() as connection:
        before = connection.scalar(text("SELECT version FROM catalog_version"))
    migrating.migrate(older)

    with older.connect() as connection:
        assert connection.scalar(text("SELECT version FROM catalog_version")) != before
