"""Keys, encryption, signatures, passwords, card numbers, redaction, and HTTP to public addresses only."""
