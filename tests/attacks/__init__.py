"""What a hostile client does, as programs: each runs against a gateway of your own and says what it saw."""
