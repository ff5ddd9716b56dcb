"""The tables. `all_tables` imports all of them."""

import importlib
import pkgutil

from sqlalchemy import MetaData

from gateway.models.base import Base


def all_tables() -> MetaData:
    """Return the metadata of every table, for migrations."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    return Base.metadata
