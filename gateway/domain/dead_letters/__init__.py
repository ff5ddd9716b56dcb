"""Store, list, replay and discard dead letters."""
