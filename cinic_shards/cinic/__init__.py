"""CINIC-10 itself: how it is fetched, built from its sources, and taken apart again."""
