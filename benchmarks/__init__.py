"""Measurements: the suite of questions, studies of the format and the order, training runs."""

import argparse


def argument_parser(doc: str | None) -> argparse.ArgumentParser:
    """Make a parser whose help starts with a module's docstring."""
    return argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
