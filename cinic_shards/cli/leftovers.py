"""Print what ``verify --against`` has found about the tree."""

from pathlib import Path
from typing import TYPE_CHECKING

from cinic_shards.cli.console import err_console, out_console, warn
from cinic_shards.errors import MAX_LISTED, few

if TYPE_CHECKING:
    from cinic_shards.check.verify import Verification
    from cinic_shards.tree.leftovers import Leftovers


def same_as(found: "Verification", tree: Path | None) -> str:
    """Say what is the same as in the tree; nothing if there is none."""
    if tree is None:
        return ""
    if found.compares_pixels:
        return f", same pixels as {tree}"
    images = " images" if found.leftovers and found.leftovers.files else ""
    return f", same{images} as {tree}"


def print_leftovers(tree: str, left: "Leftovers", *, quiet: bool) -> None:
    """Print what would be lost with the tree, grouped by the folders at its top."""
    groups: dict[str, list[str]] = {}
    for path in left.files:
        folder, slash, _ = path.partition("/")
        groups.setdefault(f"{folder}/" if slash else "", []).append(path)
    lines = []
    for folder, paths in groups.items():
        count = "1 file" if len(paths) == 1 else f"{len(paths):,} files"
        lines.append(f"{count}{' in ' if folder else ''}{folder}: {few(paths)}")
    if len(lines) > MAX_LISTED:
        lines[MAX_LISTED:] = [f"and files in {len(lines) - MAX_LISTED:,} more folders"]
    if lines:
        out_console.print("\n  ".join([f"{tree}: not in the dataset:", *lines]))
    if left.empty_folders and not quiet:
        warn(f"{tree}: folders without any file: {few(left.empty_folders)}")
    if left.num_junk and not quiet:
        count = "1 file" if left.num_junk == 1 else f"{left.num_junk:,} files"
        warn(f"{tree}: {count} such as .DS_Store, not in the dataset")
    if left.files:
        count = "1 file is" if len(left.files) == 1 else f"{len(left.files):,} files are"
        problem = f"{count} not in the dataset; move them before you delete it"
        err_console.print(f"error: {tree}: {problem}")
