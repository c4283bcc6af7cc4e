"""Weight files and adapters: read, checked, merged and written one tensor at a time."""
