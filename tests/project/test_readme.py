"""README.md says of every setting what gateway/config.py says."""

import re
from pathlib import Path
from typing import Any

from gateway.config import Settings

README = Path(__file__).parents[2] / "README.md"
ROW = re.compile(r"^\| `([A-Z_]+)` \| (\S+) \|.*\|.*\|$", re.MULTILINE)


def _shown(default: Any) -> str:
    if default is None:
        return "none"
    return f"`{','.join(default) if isinstance(default, tuple) else default}`"


def test_the_readme_lists_every_setting_with_its_default() -> None:
    table = README.read_text().partition("\n## Configuration\n")[2].partition("\nOf the `Procfile`'s commands only:")[0]
    fields = Settings.model_fields.items()
    assert dict(ROW.findall(table)) == {
        name.upper(): "needed" if field.is_required() else _shown(field.default) for name, field in fields
    }
