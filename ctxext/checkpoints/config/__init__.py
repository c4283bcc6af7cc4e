"""What a config.json says of position and shape, and how it is changed."""
