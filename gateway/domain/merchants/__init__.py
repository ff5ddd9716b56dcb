"""Merchants, their users and API clients, and the limits of their requests."""
