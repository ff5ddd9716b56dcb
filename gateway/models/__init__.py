"""The tables. `Base.metadata` knows them all once `gateway.models.all_tables` was called."""

import importlib
import pkgutil

from sqlalchemy import MetaData

from gateway.models.base import Base


def all_tables() -> MetaData:
    """The metadata of every table, for migrations."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    return Base.metadata
