"""The rules. Functions take a `Connection`, never commit, never publish, never call a network.

They import each other only downwards in the order that pyproject.toml declares for import-linter.
"""
