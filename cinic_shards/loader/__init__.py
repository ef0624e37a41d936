"""Batches for training. Only this folder imports torch."""
