"""Several runs → tables: variants, the queue that trains them, results beside published ones."""
