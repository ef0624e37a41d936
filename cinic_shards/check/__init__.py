"""Prove that a dataset is complete and undamaged, or rebuild its manifest."""
