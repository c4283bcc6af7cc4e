"""Read, check, merge and write weight files and adapters, one tensor at a time."""
