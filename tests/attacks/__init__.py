"""Attacks of hostile clients, as programs to run against your own gateway."""
