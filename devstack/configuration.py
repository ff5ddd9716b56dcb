"""Write docs/configuration.md and .env.example from the settings' declarations in gateway/config/groups.py."""

import re
import textwrap
from dataclasses import dataclass
from typing import Any

from pydantic_core import PydanticUndefined
from pydantic_settings import BaseSettings

from devstack.bootstrap import ROOT
from gateway.config import GROUPS, Settings
from gateway.config.renamed import RENAMED

PAGE = ROOT / "docs/configuration.md"
EXAMPLE = ROOT / ".env.example"
LINE_LENGTH = 120

PROCFILE_VARIABLES = {
    "ROUTE_CONCURRENCY": "Processes of `worker-route`",
    "SETTLE_CONCURRENCY": "Processes of `worker-settle`",
    "REFUND_CONCURRENCY": "Processes of `worker-refunds`",
    "WEBHOOK_CONCURRENCY": "Processes of `worker-webhooks`",
    "OPERATIONS_CONCURRENCY": "Processes of `worker-operations`",
    "BEAT_STATE_DIR": "Folder in which beat stores when it last ran each job",
    "FLOWER_PORT": "Port on which Flower listens",
}
"""Variables of the Procfile that are no settings. Their defaults are in the Procfile."""
FLOWER_VARIABLES = {
    "FLOWER_BASIC_AUTH": (
        "User and password for Flower's pages and its `/metrics`; without it, both are public",
        "flower:password",
    ),
    "FLOWER_BROKER_API": (
        "RabbitMQ's management API, from which Flower gets the lengths of the queues",
        "http://user:password@localhost:15672/api/",
    ),
}
"""Variables that Flower reads, each with an example."""

_NAMES = {"BROKER_URL", *(name.upper() for name in Settings.model_fields)}

_PAGE = """<!-- Written by `make docs` from gateway/config/groups.py. Do not edit. -->
# Configuration

Processes read their settings from environment variables once, at the start. An empty variable counts as unset. If a
setting is missing or malformed, the process exits with a message that names it. `make run` and Docker Compose also read
a file named `.env` in the project's folder; [`.env.example`](../.env.example) has every setting with its default.

All roles of a gateway get the same settings. `DATABASE_URL` and `RABBITMQ_URL` are required; everything else has a
default. Names end in their unit: durations are in seconds.

{groups}

## Variables of the Procfile

The commands in the `Procfile` use these variables too.

{procfile}

## Old names

An old name still works. The process logs a warning that names the new one. If both names are set to different values,
the process exits with an error.

{renamed}
"""
_EXAMPLE_HEAD = """\
# Written by `make docs` from gateway/config/groups.py. Do not edit.
# Every setting with its default, or with an example if it has none. Processes read the environment; `make run` and
# Docker Compose also read a file named .env in this folder: copy this file, and remove the # before a setting to change
# it. docs/configuration.md has the same settings as a table.
"""


@dataclass(frozen=True, slots=True)
class Variable:
    """One environment variable. `default` is None for an optional one without a default."""

    name: str
    default: str | None
    meaning: str
    example: str
    values: str = ""
    required: bool = False


def variables_of(group: type[BaseSettings]) -> list[Variable]:
    """Return the settings of a group in the order of their declaration."""
    schema = Settings.model_json_schema(by_alias=False)
    return [_variable(name, schema["properties"][name]) for name in group.__annotations__ if name != "model_config"]


def _variable(name: str, schema: dict[str, Any]) -> Variable:
    field = Settings.model_fields[name]
    default = None if field.default in (None, PydanticUndefined) else _text_of(field.default)
    example = default if default is not None else schema["examples"][0]
    meaning, values = schema["description"], _values_of(name, schema)
    return Variable(name.upper(), default, meaning, example, values, required=field.is_required())


def _text_of(value: object) -> str:
    if isinstance(value, tuple):
        return ",".join(value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def _values_of(name: str, schema: dict[str, Any]) -> str:
    kinds = [*schema.get("anyOf", ()), schema]
    if name.endswith("_url"):
        return "URL"
    if name.endswith("_time_zone"):
        return "IANA name"
    if any(kind.get("format") == "path" for kind in kinds):
        return "folder"
    choices = schema.get("enum") or schema.get("items", {}).get("enum")
    if choices:
        return ", ".join(f"`{choice}`" for choice in choices)
    if schema.get("type") == "boolean":
        return "`true`, `false`"
    if "minimum" not in schema:
        return "text"
    unit = " s" if name.endswith("_seconds") else " per second" if name.endswith("_per_second") else ""
    return (
        f"{schema['minimum']} to {schema['maximum']}{unit}"
        if "maximum" in schema
        else f"at least {schema['minimum']}{unit}"
    )


def procfile_variables() -> list[Variable]:
    """Return the variables of the Procfile and of Flower that are no settings."""
    defaults = dict(re.findall(r"\$\{(\w+):-([^}]*)\}", (ROOT / "Procfile").read_text()))
    return [
        *(Variable(name, defaults[name], text, defaults[name]) for name, text in PROCFILE_VARIABLES.items()),
        *(Variable(name, None, text, example) for name, (text, example) in FLOWER_VARIABLES.items()),
    ]


def page() -> str:
    """Return the content of docs/configuration.md."""
    head = "| Variable | Default | Values | Meaning |\n| --- | --- | --- | --- |\n"
    groups = (
        f"## {_title(group)}\n\n{head}" + "\n".join(_row(variable) for variable in variables_of(group))
        for group in GROUPS
    )
    procfile = "| Variable | Default | Meaning |\n| --- | --- | --- |\n" + "\n".join(
        f"| `{variable.name}` | {_shown_default(variable)} | {_linked(variable.meaning)} |"
        for variable in procfile_variables()
    )
    renamed = "| Old name | New name |\n| --- | --- |\n" + "\n".join(
        f"| `{renamed.old}` | `{renamed.new}` |" for renamed in RENAMED
    )
    return _PAGE.format(groups="\n\n".join(groups), procfile=procfile, renamed=renamed)


def example() -> str:
    """Return the content of .env.example."""
    parts = [_EXAMPLE_HEAD]
    for group in GROUPS:
        parts += [f"# --- {_title(group)} ---\n", *map(_assignment, variables_of(group))]
    parts += ["# --- Variables of the Procfile ---\n", *map(_assignment, procfile_variables())]
    return "\n".join(parts)


def _title(group: type[BaseSettings]) -> str:
    return (group.__doc__ or "").partition("\n")[0].rstrip(".")


def _row(variable: Variable) -> str:
    cells = (f"`{variable.name}`", _shown_default(variable), variable.values, _linked(variable.meaning))
    return f"| {' | '.join(cells)} |"


def _shown_default(variable: Variable) -> str:
    if variable.required:
        return "required"
    return "none" if variable.default is None else f"`{variable.default}`"


def _linked(text: str) -> str:
    """Turn names of pages into links, and names of variables into code."""
    text = re.sub(r"docs/([\w-]+\.md)", r"[\1](\1)", text)
    return re.sub(r"(?<!`)\b[A-Z][A-Z_]+\b(?!`)", lambda word: f"`{word[0]}`" if word[0] in _NAMES else word[0], text)


def _assignment(variable: Variable) -> str:
    notes = [variable.meaning.replace("`", "")]
    if variable.values and variable.values not in {"text", "URL", "folder"}:
        notes.append(f"Values: {variable.values.replace('`', '')}")
    if variable.required:
        notes.append("Required")
    elif variable.default is None:
        notes.append("Default: none")
    comment = textwrap.fill(
        ". ".join(notes) + ".", LINE_LENGTH, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False
    )
    return f"{comment}\n# {variable.name}={variable.example}\n"
