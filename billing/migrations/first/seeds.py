"""The rows that a new installation starts with; operators change them from there.

Token rates and image prices are the providers' public list prices in USD: OpenAI's pricing page for gpt-4o-mini, gpt-4o,
gpt-5.1 and the dall-e-3 size and quality table; the specification for the two models behind Runware. Credits an image keep
its 60 % margin at $0.02 a credit.
"""

from collections.abc import Sequence
from datetime import date

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

# The specification's choices of PlanLimitUsage.limit_type, with their names.
LIMIT_TYPES = [
    ("content_ideas", "Content Ideas"),
    ("content_words", "Content Words"),
    ("images_basic", "Basic Images"),
    ("images_premium", "Premium Images"),
    ("image_prompts", "Image Prompts"),
]
TEXT = {"model_type": "text", "provider": "openai", "api": "responses", "tokenizer": "o200k_base"}
ABLE = {"supports_json_mode": True, "supports_vision": True, "supports_function_calling": True}
MODELS = [
    {
        **TEXT, **ABLE, "model_name": "gpt-5.1", "display_name": "GPT-5.1", "is_default": True, "sort_order": 10,
        "input_cost_per_1m": "1.25", "cached_input_cost_per_1m": "0.125", "output_cost_per_1m": "10",
        "context_window": 400_000, "max_output_tokens": 128_000, "supports_temperature": False,
        "release_date": date(2025, 11, 13),
    },
    {
        **TEXT, **ABLE, "model_name": "gpt-4o", "display_name": "GPT-4o", "is_default": False, "sort_order": 20,
        "input_cost_per_1m": "2.5", "cached_input_cost_per_1m": "1.25", "output_cost_per_1m": "10",
        "context_window": 128_000, "max_output_tokens": 16_384, "supports_temperature": True,
        "release_date": date(2024, 5, 13),
    },
    {
        **TEXT, **ABLE, "model_name": "gpt-4o-mini", "display_name": "GPT-4o mini", "is_default": False,
        "sort_order": 30, "input_cost_per_1m": "0.15", "cached_input_cost_per_1m": "0.075",
        "output_cost_per_1m": "0.6", "context_window": 128_000, "max_output_tokens": 16_384,
        "supports_temperature": True, "release_date": date(2024, 7, 18),
    },
]  # fmt: skip
IMAGE = {"model_type": "image", "supports_json_mode": False, "supports_vision": False}
IMAGE_MODELS = [
    {
        **IMAGE, "model_name": "dall-e-3", "display_name": "DALL·E 3", "provider": "openai", "api": "images",
        "is_default": True, "sort_order": 10, "max_images": 10, "limit_type": "images_basic",
        "valid_sizes": ["1024x1024", "1024x1792", "1792x1024"], "release_date": date(2023, 10, 3),
    },
    {
        **IMAGE, "model_name": "runware:97@1", "display_name": "HiDream Full", "provider": "runware", "api": "images",
        "is_default": False, "sort_order": 20, "max_images": 10, "limit_type": "images_basic",
        "valid_sizes": ["1024x1024", "832x1248", "1248x832"], "release_date": None,
    },
    {
        **IMAGE, "model_name": "google:4@2", "display_name": "Google Nano Banana", "provider": "runware",
        "api": "images", "is_default": False, "sort_order": 30, "max_images": 4, "limit_type": "images_premium",
        "valid_sizes": ["1024x1024", "1376x768", "896x1200"], "release_date": None,
    },
]  # fmt: skip
# model, size, quality, USD an image to the provider, credits an image from the customer
IMAGE_PRICES = [
    ("dall-e-3", "1024x1024", "standard", "0.040", 5),
    ("dall-e-3", "1024x1792", "standard", "0.080", 10),
    ("dall-e-3", "1792x1024", "standard", "0.080", 10),
    ("dall-e-3", "1024x1024", "hd", "0.080", 10),
    ("dall-e-3", "1024x1792", "hd", "0.120", 15),
    ("dall-e-3", "1792x1024", "hd", "0.120", 15),
    ("runware:97@1", "*", "*", "0.013", 5),
    # At the specification's 5 credits ($0.10) each of these images would lose five cents.
    ("google:4@2", "*", "*", "0.15", 19),
]
# operation, type, name, tokens a credit, least credits, USD a credit, plan limit, its unit
OPERATIONS = [
    ("clustering", "text", "Keyword Clustering", 100, 1, "0.01", None, "requests"),
    ("idea_generation", "text", "Content Ideas Generation", 100, 1, "0.01", "content_ideas", "requests"),
    ("content_generation", "text", "Content Generation", 100, 1, "0.01", "content_words", "words"),
    ("image_generation", "image", "Image Generation", 50, 5, "0.02", None, "images"),
    ("image_prompt_extraction", "text", "Image Prompt Extraction", 100, 2, "0.01", "image_prompts", "requests"),
    ("linking", "text", "Internal Linking", 100, 1, "0.01", None, "requests"),
    ("optimization", "text", "Content Optimization", 100, 1, "0.01", None, "requests"),
    ("reparse", "text", "Content Reparse", 100, 1, "0.01", None, "requests"),
    ("site_page_generation", "text", "Site Page Generation", 100, 1, "0.01", "content_words", "words"),
    ("site_structure_generation", "text", "Site Structure Generation", 100, 1, "0.01", None, "requests"),
]


def rows() -> None:
    # These two have their values from the defaults of their columns.
    op.execute("INSERT INTO billing_configuration (id) VALUES (1)")
    op.execute("INSERT INTO global_integration_settings (id) VALUES (1)")
    _insert("plan_limit_types", _named("limit_type display_name", LIMIT_TYPES))
    _insert("ai_model_config", MODELS)
    _insert("ai_model_config", IMAGE_MODELS)
    _insert("image_prices", _named("model_name size quality cost_per_image_usd credits_per_image", IMAGE_PRICES))
    columns = "operation_type model_type display_name tokens_per_credit min_credits price_per_credit_usd limit_type limit_unit"
    _insert("credit_cost_config", _named(columns, OPERATIONS))


def _named(columns: str, given: Sequence[tuple[object, ...]]) -> list[dict[str, object]]:
    return [dict(zip(columns.split(), row, strict=True)) for row in given]


def _insert(table: str, given: list[dict[str, object]]) -> None:
    op.bulk_insert(sa.table(table, *(sa.column(name, _type(name)) for name in given[0])), given)


def _type(column: str) -> sa.types.TypeEngine:
    if column.endswith(("_usd", "_per_1m")):
        return sa.Numeric()
    if column == "valid_sizes":
        return postgresql.JSONB()
    return sa.Date() if column == "release_date" else sa.types.NullType()
