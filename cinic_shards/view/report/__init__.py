"""A report about a dataset, in one HTML file that needs no network.

``content`` reads the dataset, ``charts`` and ``sprites`` prepare charts and images, ``texts`` and
``pictures`` prepare the values of each section, and ``page`` renders them with the templates:
``page.html``, with ``style.css`` and ``script.js``, and a template for each section.
"""

import os
from pathlib import Path

from cinic_shards.jobs import Progress
from cinic_shards.options import checked
from cinic_shards.store import StoreLike, store_of_file
from cinic_shards.view.report.content import Content, gather
from cinic_shards.view.report.page import make_page

__all__ = ["Content", "write_report"]


@checked
def write_report(
    path: StoreLike,
    out: str | os.PathLike[str],
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
        path: the dataset's folder, URL or open store.
        out: the HTML file; an existing one is replaced when the page is complete.
        sample: approximate number of images to browse, which make up most of the page's size.
        seed: seed of the choice of samples.
        title: name of the dataset; by default CINIC-10 or the name of its folder.
        quick: verify everything but the images.
        workers: number of processes and threads; by default the cores that this process may use.
        progress: see ``jobs.Progress``.

    Returns:
        The page's content.

    Raises:
        OptionError: an option is invalid.
        StoreError, FormatError: there is no dataset, or its manifest or an index is damaged.
            Damaged images raise nothing: the page lists them.
        OutputError: ``out`` cannot be written.
    """
    out = Path(out)
    store = store_of_file(out)
    content = gather(
        path, sample=sample, seed=seed, quick=quick, workers=workers, progress=progress
    )
    page = make_page(content, title=title)
    with store.create(out.name) as file:
        file.write(page.encode("utf-8", "backslashreplace"))
    return content
