"""The test suite mirrors the rings of the gateway."""
