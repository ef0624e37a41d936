"""Does a dask cluster pack the same bytes, also where one of its two workers is killed mid-way?

A scheduler and two workers, real processes on loopback. Needs the extra ``dask``.
"""

import os
import signal
import subprocess
import time

from claim import COMMAND, Claim, digests

from tests.support.servers import dask_cluster


def main() -> None:
    """Run the claim."""
    with Claim(__doc__ or "") as claim:
        shard_size = sum(1 for _ in claim.tree.glob("*/*/*.png")) // 100
        options = ["--encoding", "zstd", "--shard-size", str(shard_size)]
        start = time.perf_counter()
        local = digests(claim.pack("local", *options))
        seconds = {"local": time.perf_counter() - start}
        found = {}
        for name in ("whole cluster", "a worker killed"):
            out = claim.scratch / name.replace(" ", "-")
            servers = claim.scratch / f"{out.name}-dask"
            servers.mkdir()
            with dask_cluster(servers) as cluster:
                start = time.perf_counter()
                where = ["--executor", cluster.address, "--quiet"]
                process = subprocess.Popen([COMMAND, "pack", claim.tree, out, *where, *options])
                if name == "a worker killed":
                    packing = out / "_packing"
                    while process.poll() is None and len(list(packing.glob("*.tar"))) < 20:
                        time.sleep(0.01)
                    assert process.poll() is None, "it was done before a worker could be killed"
                    os.kill(cluster.workers[0].pid, signal.SIGKILL)
                found[name] = process.wait() == 0 and digests(out)
                seconds[name] = time.perf_counter() - start
        claim.report(
            figure={
                name: f"{sum(files.get(key) == sha for key, sha in local.items())} of {len(local)}"
                if files
                else "failed"
                for name, files in found.items()
            },
            bar="every file has the SHA-256 of packing with processes of this machine",
            holds=all(files == local for files in found.values()),
            seconds={name: round(value, 1) for name, value in seconds.items()},
        )


if __name__ == "__main__":
    main()
