"""What must always be true of the database, and the check of it."""
