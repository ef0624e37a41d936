"""Do ``make demo`` and ``make test`` work on a fresh clone, and how long do they take?

Clones what is committed into a new folder and runs both there; the demo makes the environment.
"""

import os
import subprocess
import time

from claim import REPOSITORY, Claim

BAR_SECONDS = 480


def main() -> None:
    """Run the claim."""
    with Claim(__doc__ or "") as claim:
        clone = claim.scratch / "clone"
        subprocess.run(["git", "clone", "-q", REPOSITORY, clone], check=True)
        environment = {k: v for k, v in os.environ.items() if k not in ("VENV", "VIRTUAL_ENV")}
        seconds, statuses = {}, {}
        for target in ("demo", "test"):
            start = time.perf_counter()
            result = subprocess.run(
                ["make", target], cwd=clone, env=environment, stdout=subprocess.DEVNULL
            )
            seconds[target] = round(time.perf_counter() - start, 1)
            statuses[target] = result.returncode
        claim.report(
            figure=seconds,
            bar=f"both succeed, make test under {BAR_SECONDS} s",
            holds=not any(statuses.values()) and seconds["test"] < BAR_SECONDS,
            statuses=statuses,
        )


if __name__ == "__main__":
    main()
