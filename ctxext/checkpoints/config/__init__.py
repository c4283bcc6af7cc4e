"""Read what a config.json says of position and shape, and change it."""
