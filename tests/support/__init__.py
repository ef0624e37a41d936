"""Helpers that several test modules use: files, servers, a browser, network namespaces."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
"""The repository."""
