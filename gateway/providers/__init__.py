"""Payment providers: one adapter each, which implements the Protocol of `base`."""
