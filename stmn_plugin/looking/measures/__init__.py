"""Arrays of what the memories did → numbers with their definition, interval and verdict."""
