"""Do two nodes under torchrun stream from S3 in one order, each block once a node, nothing twice?

Network namespaces are the hosts: SeaweedFS on one, two nodes of 2 and of 3 ranks on others,
torchrun with gloo between these. Each step's parts are compared with those of one process that
reads a folder. What a node fetches is counted by request in its ranks, where it must be what
``tools/sizing.py`` computes, and in bytes by its network interface. Ranks that are neighbours share
a block: with ``cache="disk"`` it comes once a node, without a cache once to each of the two. Linux,
as root.
"""

import json
import os
import subprocess
import sys
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from claim import COMMAND, Claim
from sizing import Cluster

from cinic_shards.loader.cache import CacheKind
from cinic_shards.loader.plan import Tail
from cinic_shards.read.dataset import Dataset
from cinic_shards.read.split import SplitReader
from tests.support.namespaces import INTERFACE, Host, hosts
from tests.support.servers import S3Server, seaweedfs

GLOBAL_BATCH = 512
EPOCHS = 2
CASES: tuple[tuple[int, CacheKind, Tail], ...] = (
    (2, "disk", "short"),
    (3, "disk", "short"),
    (2, "none", "drop"),
)
"""Ranks a node, cache and tail. In a short last step parts are others: without a cache neighbours
would share one more block."""
BAR_BYTES = 1.03
"""A node's received bytes, of what its ranks asked for: headers, the manifest, torchrun's talk."""
RUN = """
import hashlib, json, sys
from collections import Counter
import torch.distributed as dist
from cinic_shards import Augment, ShardLoader
from cinic_shards.store.remote import RemoteStore

shards, out, batch, epochs, options = sys.argv[1:]
fetched = Counter()
read_range = RemoteStore.read_range
def counted(self, name, start, stop):
    fetched[f"{name} {start} {stop}"] += 1
    return read_range(self, name, start, stop)
RemoteStore.read_range = counted

dist.init_process_group("gloo")
loader = ShardLoader(shards, global_batch_size=int(batch), augment=Augment(), **json.loads(options))
said = [dict(fetched)]
for epoch in range(int(epochs)):
    fetched.clear()
    loader.set_epoch(epoch)
    steps = []
    for batch in loader:
        images = batch.images.contiguous().numpy()
        steps.append([batch.indices.tolist(), hashlib.blake2b(images.data).hexdigest()])
    said.append({"steps": steps, "fetched": dict(fetched)})
    dist.barrier()
with open(f"{out}/{dist.get_rank()}.json", "w") as file:
    json.dump(said, file)
dist.barrier()
dist.destroy_process_group()
"""
ALONE = """
import hashlib, json, sys
from cinic_shards import Augment, ShardLoader

shards, out, batch, epochs, world, tail = sys.argv[1:]
world = int(world)
loader = ShardLoader(shards, global_batch_size=int(batch), augment=Augment(), tail=tail)
said = []
for epoch in range(int(epochs)):
    loader.set_epoch(epoch)
    parts = [[] for _ in range(world)]
    for batch in loader:
        ids, images = batch.indices.tolist(), batch.images.contiguous().numpy()
        for rank in range(world):
            part = slice(len(ids) * rank // world, len(ids) * (rank + 1) // world)
            parts[rank].append([ids[part], hashlib.blake2b(images[part].data).hexdigest()])
    said.append(parts)
with open(out, "w") as file:
    json.dump(said, file)
"""


def run_nodes(
    nodes: list[Host], server: S3Server, scratch: Path, ranks_a_node: int, options: dict[str, Any]
) -> tuple[list[Any], list[int], float]:
    """What each rank said, the bytes that each node received, and seconds."""
    scratch.mkdir()
    script = scratch / "stream.py"
    script.write_text(RUN)
    before = [node.received() for node in nodes]
    start = time.perf_counter()
    processes = []
    for number, node in enumerate(nodes):
        command = [
            Path(sys.executable).with_name("torchrun"), f"--nnodes={len(nodes)}",
            f"--node-rank={number}", f"--nproc-per-node={ranks_a_node}",
            f"--master-addr={nodes[0].address}", "--master-port=29500", script,
            f"s3://{server.bucket}/cinic", scratch, GLOBAL_BATCH, EPOCHS, json.dumps(options),
        ]  # fmt: skip
        environment = os.environ | server.environment | {
            "GLOO_SOCKET_IFNAME": INTERFACE,
            "CINIC_SHARDS_CACHE_DIR": str(scratch / f"cache-{number}"),
        }  # fmt: skip
        with node.inside():
            processes.append(subprocess.Popen([*map(str, command)], env=environment))
    codes = [process.wait() for process in processes]
    seconds = time.perf_counter() - start
    assert codes == [0] * len(nodes), f"torchrun ended with {codes}"
    said = [
        json.loads((scratch / f"{rank}.json").read_text())
        for rank in range(len(nodes) * ranks_a_node)
    ]
    received = [node.received() - at for node, at in zip(nodes, before, strict=True)]
    return said, received, seconds


def ranges_of_blocks(reader: SplitReader) -> list[str]:
    """The range that is fetched for each block."""
    return [
        f"{shard.name} {offset} {offset + length}"
        for shard, index in zip(reader.shards, reader._indexes, strict=True)
        for offset, length in zip(index.offset.tolist(), index.length.tolist(), strict=True)
    ]


def num_bytes(ranges: Counter[str]) -> int:
    """All of them together."""
    return sum(
        count * (int(stop) - int(start))
        for (_, start, stop), count in ((key.split(), count) for key, count in ranges.items())
    )


def main() -> None:
    """Run the claim."""
    with Claim(__doc__ or "") as claim, ExitStack() as stack:
        blocks = [] if claim.args.tree else ["--block-size", "32", "--shard-size", "160"]
        local = claim.pack("local", "--encoding", "zstd", *blocks)
        store, *nodes = stack.enter_context(hosts(3))
        folder = claim.scratch / "seaweedfs"
        folder.mkdir()
        with store.inside():
            server = stack.enter_context(seaweedfs(folder, store.address))
            subprocess.run(
                [COMMAND, "convert", local, f"s3://{server.bucket}/cinic", "--encoding", "zstd",
                 "--workers", "1", "--quiet"],
                env=os.environ | server.environment, check=True,
            )  # fmt: skip
        dataset = Dataset(local)
        reader = dataset.split("train")
        ranges = ranges_of_blocks(reader)
        problems: list[str] = []
        figures: dict[str, Any] = {}
        details: dict[str, Any] = {}
        for ranks_a_node, cache, tail in CASES:
            name = f"2 nodes x {ranks_a_node} ranks, cache {cache}"
            world = 2 * ranks_a_node
            alone = claim.scratch / f"alone-{world}-{cache}.json"
            arguments = map(str, (local, alone, GLOBAL_BATCH, EPOCHS, world, tail))
            subprocess.run([sys.executable, "-c", ALONE, *arguments], check=True)
            expected = json.loads(alone.read_text())
            scratch = claim.scratch / f"nodes-{world}-{cache}"
            said, received, seconds = run_nodes(
                nodes, server, scratch, ranks_a_node, {"cache": cache, "tail": tail}
            )
            model = Cluster(
                num_samples=len(reader),
                block_size=dataset.manifest.block_size,
                nodes=len(nodes),
                ranks_a_node=ranks_a_node,
                global_batch_size=GLOBAL_BATCH,
                caches=cache == "disk",
                tail=tail,
            )
            num_expected = min(len(reader), len(model.plan(0)) * GLOBAL_BATCH)
            indexes = [Counter(rank.pop(0)) for rank in said]
            payload = [
                sum(map(num_bytes, indexes[number * ranks_a_node : (number + 1) * ranks_a_node]))
                for number in range(len(nodes))
            ]
            for epoch, needed in enumerate(model.fetched(EPOCHS)):
                given = Counter(i for rank in said for ids, _ in rank[epoch]["steps"] for i in ids)
                if len(given) != num_expected or any(count != 1 for count in given.values()):
                    problems.append(f"{name}, epoch {epoch}: a sample came twice, or never")
                differ = sum(
                    said[rank][epoch]["steps"] != expected[epoch][rank] for rank in range(world)
                )
                if differ:
                    problems.append(f"{name}, epoch {epoch}: {differ} ranks have other batches")
                for number in range(len(nodes)):
                    ranks = said[number * ranks_a_node : (number + 1) * ranks_a_node]
                    fetched: Counter[str] = Counter()
                    for rank in ranks:
                        fetched.update(rank[epoch]["fetched"])
                    wanted = Counter(ranges[block] for block in np.flatnonzero(needed[number]))
                    num_twice = sum(count > 1 for count in fetched.values())
                    num_others = len(fetched.keys() ^ wanted.keys())
                    if num_twice > (0 if model.caches else ranks_a_node - 1) or num_others:
                        problems.append(
                            f"{name}, epoch {epoch}, node {number}: {num_twice} blocks fetched "
                            f"more than once, {num_others} others than tools/sizing.py says"
                        )
                    payload[number] += num_bytes(fetched)
                    details[f"{name}, epoch {epoch}, node {number}"] = {
                        "blocks fetched": fetched.total(), "by tools/sizing.py": len(wanted),
                        "MB": round(num_bytes(fetched) / 1e6, 1),
                    }  # fmt: skip
                figures[f"{name}, epoch {epoch}"] = (
                    f"{len(given):,} samples once, {differ} of {world} ranks differ"
                )
            wire = [got / sent for got, sent in zip(received, payload, strict=True)]
            figures[f"{name}: bytes on the wire / asked for"] = [round(one, 3) for one in wire]
            if claim.args.tree and max(wire) > BAR_BYTES:
                problems.append(f"{name}: {wire} of the bytes asked for on the wire")
            details[f"{name}: seconds"] = round(seconds, 1)
        claim.report(
            figure=figures,
            bar="every sample once, the batches of one process, each block of a node fetched once "
            "(without a cache, one by both of two neighbours), as tools/sizing.py says; "
            f"with a real tree at most {BAR_BYTES:g} x the bytes asked for on the wire",
            holds=not problems,
            problems=problems[:10],
            **details,
        )


if __name__ == "__main__":
    main()
