"""Merchants' webhook endpoints, the events that they read, and the deliveries."""
