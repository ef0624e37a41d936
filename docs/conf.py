"""Sphinx's configuration; ``make docs`` builds the site from the pages of this folder."""

import os
import re
import sys
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]

from cli_reference import reference  # noqa: E402

from cinic_shards import __version__  # noqa: E402

project = "cinic-shards"
author = "The cinic-shards authors"
version = release = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]

html_theme = "furo"
html_title = f"cinic-shards {version}"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_copy_source = html_show_copyright = False
html_domain_indices = html_use_index = False

myst_enable_extensions = ["attrs_block"]
myst_heading_anchors = 3
highlight_language = "none"  # of indented blocks, most of which are commands

autoclass_content = "both"
autodoc_default_options = {"member-order": "bysource", "undoc-members": True}
autodoc_preserve_defaults = True
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 80
python_use_unqualified_type_names = True
toc_object_entries_show_parents = "hide"
nitpicky = True
nitpick_ignore_regex = [("py:.*", r"(?!cinic_shards\.).*")]  # other libraries are not on this site

PAGES = {
    ROOT / "README.md": DOCS / "index.md",
    ROOT / "CONTRIBUTING.md": DOCS / "contributing.md",
    ROOT / "CHANGELOG.md": DOCS / "changelog.md",
}
"""File outside of this folder -> its page."""


def site_links(text: str, folder: Path) -> str:
    """Change the relative links of a Markdown text to those of the site.

    A file at the root that has a page becomes that page; other texts and folders have none, so
    their links become plain text; any other file can be downloaded. The name of a page becomes its
    title.

    Args:
        text: the text.
        folder: folder of the text's file.
    """

    def link(match: re.Match[str]) -> str:
        label, name, anchor = match.groups(default="")
        target = (folder / name).resolve()
        page = PAGES.get(target, target)
        is_on_site = page.parent == DOCS if page.suffix == ".md" else page.is_file()
        if not is_on_site:
            return label
        if label == name and page.parent == DOCS and page.suffix == ".md":
            label = ""
        return f"[{label}]({os.path.relpath(page, DOCS)}{anchor})"

    return re.sub(r"\[([^]]*)\]\(([\w./-]+)(#[\w-]+)?\)", link, text)


def setup(app: Sphinx) -> None:
    """Change texts before they are parsed."""

    def read(app: Sphinx, page: str, text: list[str]) -> None:
        text[0] = site_links(text[0], DOCS)
        if page == "cli":
            text[0] += reference()

    def include(app: Sphinx, file: Path, page: str, text: list[str]) -> None:
        text[0] = site_links(text[0], (DOCS / file).parent)

    def docstring(app: Sphinx, what: str, *arguments: Any) -> None:
        if what in ("attribute", "property"):
            # After this empty comment, napoleon does not take a text before a colon for a type.
            arguments[-1][:0] = ["..", ""]

    app.connect("source-read", read)
    app.connect("include-read", include)
    app.connect("autodoc-process-docstring", docstring, priority=0)
