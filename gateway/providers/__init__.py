"""Payment providers: one module each, behind the Protocol of `base`."""
