"""Pages that show a table, and what a model makes of it."""
