"""A packed dataset's rows: open it, look at its columns, choose a subset, decode."""
