"""Attacks of hostile clients as programs, to be run against your own gateway."""
