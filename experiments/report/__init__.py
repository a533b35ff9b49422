"""Pages, tables and figures, from the records alone."""
