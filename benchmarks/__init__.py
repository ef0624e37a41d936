"""Measurements: the suite of questions, studies of the format and the order, training runs."""
