"""One page about a dataset, in one HTML file that needs no network.

``content`` reads the dataset, ``charts`` and ``sprites`` make pictures of it, ``texts`` and
``pictures`` what each section says, and ``page`` renders that by the templates: ``page.html``, with
``style.css`` and ``script.js``, and one for each section.
"""

from pathlib import Path

from cinic_shards.jobs import Progress
from cinic_shards.store import StoreLike, store_of_file
from cinic_shards.view.report.content import Content, gather
from cinic_shards.view.report.page import make_page

__all__ = ["Content", "write_report"]


def write_report(
    path: StoreLike,
    out: Path,
    *,
    sample: int = 4000,
    seed: int = 0,
    title: str | None = None,
    quick: bool = False,
    workers: int | None = None,
    progress: Progress = lambda doing, done, total: None,
) -> Content:
    """Write a page about a dataset: counts, samples, statistics, duplicates, integrity, a browser.

    Args:
        path: where the dataset lies; a folder, a URL or an open store.
        out: the HTML file, which replaces one that is there when the page is whole.
        sample: about so many images can be browsed; most of the page's bytes are theirs.
        seed: of the choice of samples.
        title: the dataset's name; by default CINIC-10's, or its folder's.
        quick: check digests and indexes alone, where otherwise every byte and image is checked.
        workers: processes, and threads; by default the cores that this process may use.
        progress: see ``jobs.Progress``.

    Returns:
        What the page says.

    Raises:
        OptionError: an option cannot be.
        StoreError, FormatError: there is no dataset, or its manifest or an index is damaged.
            Damaged images are on the page.
        OutputError: ``out`` cannot be written.
    """
    store = store_of_file(out)
    content = gather(
        path, sample=sample, seed=seed, quick=quick, workers=workers, progress=progress
    )
    page = make_page(content, title=title)
    with store.create(out.name) as file:
        file.write(page.encode("utf-8", "backslashreplace"))
    return content
