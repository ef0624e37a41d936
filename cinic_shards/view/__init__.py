"""Show the contents of a dataset: statistics, duplicates, pictures, a report."""
