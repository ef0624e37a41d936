"""Show what a dataset holds: statistics, duplicates, pictures, a report."""
