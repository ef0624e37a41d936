"""The package's version, in its own file so that any folder can import it."""

__version__ = "0.2.0"
