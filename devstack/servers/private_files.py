"""Files that only their owner can read: random passwords and JSON records."""

import json
import os
import secrets
from pathlib import Path
from typing import Any

_BYTES = 18


def write_private(path: Path, text: str) -> None:
    """Write a file of mode 0600 atomically: a reader sees the old content or the new one."""
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as handle:
        handle.write(text)
    temporary.replace(path)


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file, or an empty one if there is no such file."""
    try:
        found = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    return found if isinstance(found, dict) else {}


def password(path: Path, name: str) -> str:
    """Return the password with this name; create it on first use."""
    known = read_json(path)
    if name not in known:
        known[name] = secrets.token_urlsafe(_BYTES)
        write_private(path, json.dumps(known, indent=2) + "\n")
    return str(known[name])
