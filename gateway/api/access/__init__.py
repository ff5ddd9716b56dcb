"""Access control: access tokens, revocations, log-ins and rate limits."""
