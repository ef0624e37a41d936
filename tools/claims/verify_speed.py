"""How long does ``verify`` take, beside sha256sum of the shards and one epoch of the loader?

Warm; whole processes for verify and sha256sum, for the loader an epoch of every split with default
threads, opening included; in turn, medians.
"""

import statistics
import subprocess
import time

from claim import COMMAND, Claim

from cinic_shards.loader.loader import ShardLoader
from cinic_shards.read.dataset import Dataset

BAR = 3.0


def main() -> None:
    """Run the claim."""
    with Claim(__doc__ or "") as claim:
        shards = claim.pack("shards")
        splits = [split.name for split in Dataset(shards).manifest.splits]
        files = sorted(shards.glob("*.tar"))
        verify, sha256sum, epoch = [], [], []
        for _ in range(claim.args.repeats + 1):  # the first is not counted
            start = time.perf_counter()
            subprocess.run([COMMAND, "verify", shards, "--quiet"], check=True)
            verified = time.perf_counter()
            subprocess.run(["sha256sum", *files], check=True, stdout=subprocess.DEVNULL)
            summed = time.perf_counter()
            for split in splits:
                for _ in ShardLoader(shards, split=split, tail="short"):
                    pass
            verify.append(verified - start)
            sha256sum.append(summed - verified)
            epoch.append(time.perf_counter() - summed)
        ratio = statistics.median(
            a / (b + c) for a, b, c in zip(verify[1:], sha256sum[1:], epoch[1:], strict=True)
        )
        claim.report(
            figure=round(ratio, 2),
            bar=f"at most {BAR:g}",
            holds=ratio <= BAR,
            verify_seconds=round(statistics.median(verify[1:]), 2),
            sha256sum_seconds=round(statistics.median(sha256sum[1:]), 2),
            epoch_seconds=round(statistics.median(epoch[1:]), 2),
        )


if __name__ == "__main__":
    main()
