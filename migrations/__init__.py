"""The schema: how it came about, and how it changes."""
