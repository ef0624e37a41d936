"""How long does ``report`` take, how large is its page, and can a browser use it without a network?

The command as a whole process, with its full ``verify``, with the shards in the page cache; then
the page in a headless Chromium, where there is one: it says nothing on its console, asks for no
URL, is no wider than the window at 1,280 and 400 pixels in light and dark, a filter leaves what it
should, and a click shows the image's key.
"""

import json
import subprocess
import time
from pathlib import Path
from typing import Any

from claim import COMMAND, Claim

SECONDS = 120.0
MEGABYTES = 15.0


def use(file: Path) -> list[str]:
    """What is wrong with the page in a browser."""
    from tests.support.chromium import open_page

    problems = []
    for width, is_dark in ((1280, False), (1280, True), (400, False), (400, True)):
        with open_page(file, width=width, is_dark=is_dark) as page:
            data: dict[str, Any] = json.loads(page.text("#data"))
            images = data["images"]
            page.choose("#filter-class", data["classes"][-1])
            wanted = [
                f"{data['splits'][images['split'][i]]}/{data['classes'][-1]}/{images['stem'][i]}"
                for i, label in enumerate(images["class"])
                if label == len(data["classes"]) - 1
            ]
            if not page.text("#status").startswith(f"{len(wanted):,} images of the sample"):
                problems.append(f"{width}: {len(wanted)} expected, {page.text('#status')!r}")
            page.find("#grid button").click()
            if page.text("#details-key") != wanted[0]:
                problems.append(f"{width}: {wanted[0]} expected, {page.text('#details-key')!r}")
            root = page.run("const root = document.documentElement; "
                            "return [root.scrollWidth, root.clientWidth]")  # fmt: skip
            if root[0] > root[1]:
                problems.append(f"{width}: the page is {root[0]} pixels wide")
            problems += [f"{width}: {text}" for text in page.console()]
            problems += [f"{width}: asked for {url}" for url in page.requests()]
    return problems


def main() -> None:
    """Run the claim."""
    with Claim(__doc__ or "") as claim:
        shards = claim.pack("shards")
        file = claim.scratch / "report.html"
        command = [str(part) for part in (COMMAND, "report", shards, "-o", file, "--quiet")]
        start = time.perf_counter()
        subprocess.run(command, check=True)
        seconds = time.perf_counter() - start
        megabytes = file.stat().st_size / 1e6
        try:
            from tests.support.chromium import missing_programs

            missing = missing_programs()
        except ImportError as error:
            missing = [str(error.name)]
        problems = [] if missing else use(file)
        browser = f"NOT RUN, no {' and '.join(missing)}" if missing else f"{len(problems)} problems"
        claim.report(
            figure=f"{seconds:.1f} s, {megabytes:.1f} MB; in Chromium: {browser}",
            bar=f"at most {SECONDS:g} s and {MEGABYTES:g} MB; no problem in Chromium",
            holds=(seconds <= SECONDS or claim.args.untimed)
            and megabytes <= MEGABYTES
            and not problems,
            problems=problems[:20],
        )


if __name__ == "__main__":
    main()
