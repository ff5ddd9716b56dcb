"""Who may call: access tokens, revocations, log-ins and rate limits."""
