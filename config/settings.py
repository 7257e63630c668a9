"""The settings of one process, read once from its environment.

`DATABASE_URL`, `BROKER_URL` and `CREDITMILL_SECRET_KEY` are required; every other setting has a default and is named
`CREDITMILL_…`. What operators change while the system runs lives in the database, not here.
"""

from __future__ import annotations

import os
from typing import Annotated, TypeVar

from pydantic import AfterValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from config.addresses import BROKER, DATABASE, PROXY, AddressError, Form, read_address

Kind = TypeVar("Kind", bound=BaseSettings)

REQUIRED = {
    "database_url": "DATABASE_URL",
    "broker_url": "BROKER_URL",
    "secret_key": "CREDITMILL_SECRET_KEY",
}

ADDRESSES = {"DATABASE_URL": DATABASE, "BROKER_URL": BROKER}
"""The settings that are URLs, each with what its URL looks like."""
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy")
"""Those that the provider's library reads by itself, each time that it makes a client."""


def _readable(setting: str) -> AfterValidator:
    def read(url: SecretStr) -> SecretStr:
        read_address(setting, url.get_secret_value(), ADDRESSES[setting])
        return url

    return AfterValidator(read)


Seconds = Annotated[float, Field(gt=0, le=86_400)]


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class ConfigurationError(Exception):
    """Something that was set up is missing or wrong; the message is one sentence that says what, and what to do."""

    code = "configuration_error"


class SettingError(ConfigurationError):
    """A setting of this process is missing or wrong; the message names it, and never shows its value."""


class BrokerSettings(BaseSettings):
    """What a process needs to know that looks at the broker only. Times are in seconds."""

    model_config = SettingsConfigDict(
        env_prefix="CREDITMILL_", extra="ignore", frozen=True, hide_input_in_errors=True, env_ignore_empty=True
    )

    broker_url: Annotated[SecretStr, _readable("BROKER_URL")] = Field(validation_alias="BROKER_URL")

    log_level: str = Field(default="INFO", pattern="^(DEBUG|INFO|WARNING|ERROR|CRITICAL)$")
    log_format: str = Field(default="console", pattern="^(console|json)$")

    # What Redis waits before it delivers an unacknowledged message again: longer than the longest task.
    visibility_timeout_s: Seconds = 900
    flower_address: str = "127.0.0.1"
    flower_port: int = Field(default=5555, ge=0, le=65_535)
    flower_basic_auth: SecretStr | None = None


class Settings(BrokerSettings):
    """Everything that a process needs to know before it can reach the database. Times are in seconds."""

    database_url: Annotated[SecretStr, _readable("DATABASE_URL")] = Field(validation_alias="DATABASE_URL")
    secret_key: SecretStr

    # How long one call to a provider may take, by kind of work; past it the outcome is unknown.
    text_call_s: Seconds = 180
    image_call_s: Seconds = 240
    # Retries of one job's call inside a worker: bounded by attempts and by total time.
    call_attempts: int = Field(default=4, ge=1, le=20)
    call_wait_max_s: Seconds = 20
    call_total_s: Seconds = 400
    # How long a job may stay open; then it is given up and its credits are released.
    job_deadline_s: Seconds = 3_600
    # How long an outcome may stay unknown before the customer is refunded: longer than any provider's longest time.
    unknown_wait_s: Seconds = 900
    # How long the messages of a job get before the recovery task publishes them again (doubling each time).
    republish_after_s: Seconds = 60
    # The period of periodic.recover_jobs.
    recover_every_s: Seconds = 15

    generation_concurrency: int = Field(default=64, ge=1, le=2_048)
    # One process a core, and two at least: a slow statement then holds up one of them.
    billing_concurrency: int = Field(default_factory=lambda: min(64, max(2, cores())), ge=1, le=64)
    # Where the HTTP API listens, and how often one key may ask it.
    api_address: str = "127.0.0.1"
    api_port: int = Field(default=8000, ge=0, le=65_535)
    api_rate_per_minute: int = Field(default=6_000, ge=1, le=10_000_000)
    # Whether webhooks may be sent to addresses of private networks, and without TLS: for trying things out.
    webhooks_to_private: bool = False
    # How long a worker with room may take no message from a queue that holds some, before it is restarted.
    stalled_after_s: Seconds = 60

    def call_s(self, kind: str) -> float:
        """The longest time one call of this kind (text, image, embedding) may take, in seconds."""
        return self.image_call_s if kind == "image" else self.text_call_s

    @property
    def longest_work_s(self) -> float:
        """The longest that a worker can be busy with one job's calls, in seconds: its retries, and a last call."""
        return self.call_total_s + self.call_wait_max_s + max(self.text_call_s, self.image_call_s)

    def lease_s(self, kind: str) -> float:
        """How long a claim on a job lasts, in seconds: one call, the wait before the next one, and a margin."""
        return self.call_s(kind) + self.call_wait_max_s + 10


def load_settings() -> Settings:
    """Read the environment; raises SettingError with one sentence that names the variable."""
    return _loaded(Settings)


def load_broker_settings() -> BrokerSettings:
    """Read of the environment what it takes to look at the broker; raises SettingError like `load_settings`."""
    check_addresses()
    return _loaded(BrokerSettings)


def _loaded(kind: type[Kind]) -> Kind:
    try:
        # pydantic-settings fills the fields from the environment.
        return kind()
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        field = str(first["loc"][0])
        name = _variable(field)
        if first["type"] == "missing":
            raise SettingError(
                f"{name} is not set: set it, or use the folder of a running `creditmill up`, which starts servers of "
                "its own (here, or in CREDITMILL_FOLDER)."
            ) from None
        if first["type"] == "value_error":
            # An address's error names the setting and the part itself.
            raise SettingError(str(first["ctx"]["error"])) from None
        raise SettingError(f"{name} is not valid: {first['msg']}.") from None


def check_addresses() -> None:
    """Read the addresses that are set, for whoever does without the others; raises SettingError with one sentence."""
    for name, form in ADDRESSES.items():
        if os.environ.get(name):
            _check(name, os.environ[name], form)


def check_proxies() -> None:
    """Read the addresses of proxies, for whoever calls providers; raises SettingError with one sentence."""
    for name in PROXIES:
        url = os.environ.get(name)
        if url:
            _check(name, url if "://" in url else f"http://{url}", PROXY)


def _check(setting: str, url: str, form: Form) -> None:
    try:
        read_address(setting, url, form)
    except AddressError as error:
        raise SettingError(str(error)) from None


def _variable(field: str) -> str:
    return REQUIRED.get(field, field if field.isupper() else f"CREDITMILL_{field.upper()}")
