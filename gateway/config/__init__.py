"""The settings of a process. They are read from the environment once.

Each setting is an environment variable; docs/configuration.md and `.env.example` list them (`make docs` writes both
from `gateway.config.groups`). A missing or malformed setting raises `ConfigError`, whose message names the variable
and describes it.
"""

import os
from functools import cache
from typing import Any

from pydantic import ValidationError, model_validator

from gateway.config import renamed
from gateway.config.groups import (
    Access,
    Api,
    Checks,
    LogsAndMetrics,
    Pipeline,
    Providers,
    RateLimits,
    Servers,
    WebhooksAndAlerts,
)

GROUPS = (Servers, Api, Access, RateLimits, Pipeline, Providers, Checks, WebhooksAndAlerts, LogsAndMetrics)


class ConfigError(SystemExit):
    """The gateway cannot run with this environment."""


class Settings(Servers, Api, Access, RateLimits, Pipeline, Providers, Checks, WebhooksAndAlerts, LogsAndMetrics):
    """All settings."""

    @model_validator(mode="before")
    @classmethod
    def _accept_old_names(cls, values: dict[str, Any]) -> dict[str, Any]:
        return renamed.with_new_names(values, os.environ)

    @property
    def claim_lease_seconds(self) -> int:
        """Time for which a claimed attempt belongs to its worker: a charge, a status query, and the recording."""
        return 2 * self.provider_timeout_seconds + self.database_timeout_seconds


def _explain(error: ValidationError) -> str:
    old_names = {found.new: found.old for found in renamed.in_use(os.environ)}
    lines = []
    for item in error.errors():
        problem = "is not set" if item["type"] == "missing" else item["msg"].removeprefix("Value error, ")
        if not item["loc"]:
            lines.append(f"  {problem}")
            continue
        name = str(item["loc"][0]).upper()
        field = Settings.model_fields.get(name.lower())
        hint = f" ({field.description})" if field is not None else ""
        lines.append(f"  {old_names.get(name, name)}: {problem}{hint}")
    return "The gateway cannot start with these settings (see docs/configuration.md):\n" + "\n".join(lines)


@cache
def settings() -> Settings:
    """Return the settings of this process.

    Raises:
        ConfigError: a setting is missing or malformed; the process should exit with this message.
    """
    try:
        return Settings()  # fields come from the environment
    except ValidationError as exc:
        raise ConfigError(_explain(exc)) from None


def old_names_in_use() -> list[str]:
    """Return a warning for each setting that this process got under its old name."""
    return renamed.warnings(os.environ)


def runs_under_test() -> bool:
    """Return whether this process belongs to a test stack, where test-only payment methods are allowed."""
    return os.environ.get("GATEWAY_TEST_TOKENS") == "1"
