"""Keys, encryption, signatures, passwords, card numbers, redaction, and the guard of outbound HTTP."""
