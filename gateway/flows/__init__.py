"""Flows: the steps of a use case that read or write the database, or call a third party.

A flow that calls a third party claims its work (commit), calls, and records the outcome (commit). It holds no database
connection during the call.
"""

from gateway.db import UNAVAILABLE as DATABASE_UNAVAILABLE
from gateway.db import wait_until_available as wait_for_database

__all__ = ["DATABASE_UNAVAILABLE", "wait_for_database"]
