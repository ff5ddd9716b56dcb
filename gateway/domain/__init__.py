"""The rules of the gateway. Functions take a `Connection`; they never commit, publish or use a network.

The packages import each other only downwards, in the order that pyproject.toml declares for import-linter.
"""
