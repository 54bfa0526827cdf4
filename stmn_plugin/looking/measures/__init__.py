"""Measures of memories and attention: numbers with definition, interval and verdict."""
