"""How fast is an epoch from an S3 server, and of how many bytes, beside stock webdataset's?

SeaweedFS and the reader share the machine's cores; network namespaces lie between them, whose
interface counts the bytes. Both read the same images from the same server, shuffled, uint8: our
``zstd`` shards by ``ShardLoader``, as it comes; webdataset its own shards of png and cls
(ShardWriter, ``mtime=0``) at signed URLs, by the ``curl`` that it starts for these, at its best
number of workers and decoder. Linux, as root.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import obstore
from claim import COMMAND, Claim
from pack_speed import write_with_shardwriter

from tests.support.namespaces import Host, hosts, received
from tests.support.servers import S3Server, seaweedfs

BATCH_SIZE = 512
BAR_SPEED, BAR_BYTES = 10.0, 0.5
SPLIT = "train"


def read_epochs(reader: str, options: dict[str, Any], epochs: int) -> dict[str, list[float]]:
    """Rate and bytes of each epoch after a first one, in this process."""
    from bench_loader import webdataset_epochs

    from cinic_shards import ShardLoader
    from cinic_shards.loader.warmup import warm_up

    if reader == "cinic-shards":
        warm_up()
        batches: Any = ShardLoader(split=SPLIT, batch_size=BATCH_SIZE, **options)
    else:
        batches = webdataset_epochs(batch_size=BATCH_SIZE, **options)
    rates, sizes = [], []
    for _ in range(epochs + 1):
        before, start = received(), time.perf_counter()
        count = sum(len(labels) for _, labels in batches)
        rates.append(count / (time.perf_counter() - start))
        sizes.append((received() - before) / count)
    return {"rates": rates[1:], "bytes": sizes[1:]}


def run(node: Host, server: S3Server, *arguments: Any) -> dict[str, list[float]]:
    """``read_epochs`` in a fresh process on that host."""
    command = [sys.executable, __file__, "--run", *(json.dumps(one) for one in arguments)]
    with node.inside():
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, env=os.environ | server.environment
        )
    said, _ = process.communicate()
    assert process.returncode == 0, f"{arguments[0]} ended with {process.returncode}"
    result: dict[str, list[float]] = json.loads(said.splitlines()[-1])
    return result


def put(server: S3Server, folder: Path, prefix: str) -> list[str]:
    """Send a folder's shards of the split; signed URLs of them."""
    from datetime import timedelta

    client = server.client()
    names = sorted(path.name for path in folder.glob(f"{SPLIT}-*.tar"))
    for name in names:
        obstore.put(client, f"{prefix}/{name}", folder / name, use_multipart=False)
    paths = [f"{prefix}/{name}" for name in names]
    return list(obstore.sign(client, "GET", paths, expires_in=timedelta(hours=3)))


def main() -> None:
    """Run the claim."""
    if sys.argv[1:2] == ["--run"]:
        print(json.dumps(read_epochs(*(json.loads(one) for one in sys.argv[2:]))))
        return
    with Claim(__doc__ or "") as claim, ExitStack() as stack:
        store, node = stack.enter_context(hosts(2))
        folder = claim.scratch / "seaweedfs"
        folder.mkdir()
        stock = claim.scratch / "stock"
        write_with_shardwriter(claim.tree, stock)
        with store.inside():
            server = stack.enter_context(seaweedfs(folder, store.address))
            urls = put(server, stock, "stock")
            place = f"s3://{server.bucket}/cinic"
            subprocess.run(
                [COMMAND, "pack", claim.tree, place, "--encoding", "zstd", "--quiet"],
                env=os.environ | server.environment, check=True,
            )  # fmt: skip
        epochs = claim.args.repeats
        tried = {
            f"{workers} workers, {decoder}": {"urls": urls, "workers": workers, "decoder": decoder}
            for workers in (1, 2, 4)
            for decoder in ("torchrgb8", "pil")
            if workers <= len(urls)
        }
        rates = {
            setting: statistics.median(run(node, server, "webdataset", options, 1)["rates"])
            for setting, options in tried.items()
        }
        best = max(rates, key=lambda setting: rates[setting])
        ours: dict[str, list[float]] = {"rates": [], "bytes": []}
        theirs: dict[str, list[float]] = {"rates": [], "bytes": []}
        for _ in range(epochs):  # in turn
            for found, arguments in (
                (ours, ("cinic-shards", {"path": place}, 3)),
                (theirs, ("webdataset", tried[best], 1)),
            ):
                for name, values in run(node, server, *arguments).items():
                    found[name] += values
        rate, other = (statistics.median(one["rates"]) for one in (ours, theirs))
        size, other_size = (statistics.median(one["bytes"]) for one in (ours, theirs))
        is_real = claim.args.tree is not None
        claim.report(
            figure={
                "images a second, of webdataset's": round(rate / other, 1),
                "bytes an image, of webdataset's": round(size / other_size, 3),
            },
            bar=f"at least {BAR_SPEED:g} x, at most {BAR_BYTES:g}; of a drawn tree, that it runs",
            holds=not is_real or (rate / other >= BAR_SPEED and size / other_size <= BAR_BYTES),
            images_per_second={"cinic-shards": round(rate), "webdataset": round(other)},
            bytes_an_image={"cinic-shards": round(size), "webdataset": round(other_size)},
            spread={
                name: [round(min(one["rates"])), round(max(one["rates"]))]
                for name, one in (("cinic-shards", ours), ("webdataset", theirs))
            },
            webdataset_settings={setting: round(value) for setting, value in rates.items()},
            webdataset_best=best,
        )


if __name__ == "__main__":
    main()
