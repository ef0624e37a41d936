"""Two nodes under torchrun stream from S3 in one order; network namespaces are the hosts.

SeaweedFS is on one host, nodes of 2 and of 3 ranks on two others, with torchrun and gloo between
these. Linux, as root.
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sizing import Cluster

from cinic_shards import Augment, ShardLoader
from cinic_shards.loader.cache import CacheKind
from cinic_shards.loader.plan import Tail
from cinic_shards.read.dataset import Dataset
from tests.acceptance.trees import Record, Tree, cinic_shard, started, torchrun
from tests.support.namespaces import INTERFACE, Host, can_make_hosts, hosts
from tests.support.servers import S3Server, seaweedfs

GLOBAL_BATCH = 512
EPOCHS = 2
MANY_BLOCKS = 50
MAX_WIRE = 1.03
"""Times the bytes that its ranks ask for, a node receives: headers, the manifest, torchrun."""


@pytest.fixture(scope="module")
def network(
    small_tree: Tree, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[list[Host], S3Server]]:
    """Two nodes, and a server on a third host that has the tree's blocks."""
    if not can_make_hosts():
        pytest.skip("NOT RUN: makes network namespaces, as root")
    with ExitStack() as stack:
        store, *nodes = stack.enter_context(hosts(3))
        with store.inside():
            folder = tmp_path_factory.mktemp("seaweedfs")
            server = stack.enter_context(seaweedfs(folder, store.address))
            cinic_shard(
                "convert", small_tree.packed("zstd"), f"s3://{server.bucket}/cinic",
                "--encoding", "zstd", "--workers", "1", "--quiet",
                env=os.environ | server.environment,
            )  # fmt: skip
        yield nodes, server


def run_nodes(
    nodes: list[Host], server: S3Server, scratch: Path, ranks_a_node: int, options: dict[str, Any]
) -> tuple[list[list[Any]], list[int]]:
    """Run the nodes; return what the ranks of each wrote, and the bytes that it received."""
    before = [node.received() for node in nodes]
    stack = ExitStack()
    processes = []
    for number, node in enumerate(nodes):
        words = torchrun(
            "node.py", f"s3://{server.bucket}/cinic", scratch, GLOBAL_BATCH, EPOCHS,
            json.dumps(options),
            options=(
                f"--nnodes={len(nodes)}", f"--node-rank={number}", "--master-port=29500",
                f"--nproc-per-node={ranks_a_node}", f"--master-addr={nodes[0].address}",
            ),
        )  # fmt: skip
        env = os.environ | server.environment | {
            "GLOO_SOCKET_IFNAME": INTERFACE,
            "CINIC_SHARDS_CACHE_DIR": str(scratch / f"cache-{number}"),
        }  # fmt: skip
        with node.inside():
            processes.append(stack.enter_context(started(words, env=env)))
    with stack:
        assert [process.wait(600) for process in processes] == [0] * len(nodes)
    said = [
        [json.loads((scratch / f"{first + rank}.json").read_text()) for rank in range(ranks_a_node)]
        for first in range(0, len(nodes) * ranks_a_node, ranks_a_node)
    ]
    return said, [node.received() - at for node, at in zip(nodes, before, strict=True)]


def steps_of_one_process(shards: Path, world: int, tail: Tail) -> list[list[list[Any]]]:
    """Each rank's part of each step of each epoch, as one process that reads a folder has it."""
    loader = ShardLoader(shards, global_batch_size=GLOBAL_BATCH, augment=Augment(), tail=tail)
    found = []
    for epoch in range(EPOCHS):
        loader.set_epoch(epoch)
        parts: list[list[Any]] = [[] for _ in range(world)]
        for batch in loader:
            ids, images = batch.indices.tolist(), batch.images.contiguous().numpy()
            for rank in range(world):
                part = slice(len(ids) * rank // world, len(ids) * (rank + 1) // world)
                parts[rank].append([ids[part], hashlib.blake2b(images[part].data).hexdigest()])
        found.append(parts)
    return found


def num_bytes(ranges: Counter[str]) -> int:
    """Bytes of all ranges together."""
    bounds = ((key.split()[1:], count) for key, count in ranges.items())
    return sum(count * (int(stop) - int(start)) for (start, stop), count in bounds)


@pytest.mark.parametrize(
    ("ranks_a_node", "cache", "tail"),
    [
        (2, "disk", "short"),
        (3, "disk", "short"),
        # Without a cache, the parts of a short last step would share one more block.
        (2, "none", "drop"),
    ],
)
def test_nodes_fetch_each_block_once(
    small_tree: Tree, network: tuple[list[Host], S3Server], ranks_a_node: int, cache: CacheKind,
    tail: Tail, tmp_path: Path, record_property: Record,
) -> None:  # fmt: skip
    """Have two nodes the batches of one process, each sample once, and each block once a node?

    What a node fetches is counted by request, and is what ``tools/sizing.py`` computes; and in
    bytes by its network interface. Neighbouring ranks share a block: with ``cache="disk"`` it is
    fetched once a node, without a cache once by each of the two. (Of few blocks they share more.)
    """
    nodes, server = network
    shards = small_tree.packed("zstd")
    dataset = Dataset(shards)
    reader = dataset.split("train")
    ranges = [
        f"{shard.name} {offset} {offset + length}"
        for shard, index in zip(reader.shards, reader._indexes, strict=True)
        for offset, length in zip(index.offset.tolist(), index.length.tolist(), strict=True)
    ]
    expected = steps_of_one_process(shards, len(nodes) * ranks_a_node, tail)
    options = {"cache": cache, "tail": tail}
    said, received = run_nodes(nodes, server, tmp_path, ranks_a_node, options)
    shares = cache == "disk"  # without a cache every rank fetches by itself
    model = Cluster(
        num_samples=len(reader),
        block_size=dataset.manifest.block_size,
        nodes=len(nodes) if shares else len(nodes) * ranks_a_node,
        ranks_a_node=ranks_a_node if shares else 1,
        global_batch_size=GLOBAL_BATCH,
        caches=shares,
        tail=tail,
    )
    num_expected = min(len(reader), len(model.plan(0)) * GLOBAL_BATCH)
    asked = [sum(num_bytes(Counter(rank[0])) for rank in node) for node in said]
    num_fetched = []
    for epoch, needed in enumerate(model.fetched(EPOCHS)):
        steps = [rank[1 + epoch]["steps"] for node in said for rank in node]
        assert steps == expected[epoch], f"epoch {epoch}: other batches than one process has"
        given = Counter(i for rank in steps for ids, _ in rank for i in ids)
        assert len(given) == given.total() == num_expected, f"epoch {epoch}: samples"
        for number, node in enumerate(said):
            fetched: Counter[str] = Counter()
            for rank in node:
                fetched.update(rank[1 + epoch]["fetched"])
            rows = needed.reshape(len(nodes), -1, len(ranges))[number]
            wanted = Counter(ranges[block] for row in rows for block in np.flatnonzero(row))
            assert fetched == wanted, f"epoch {epoch}, node {number}: other blocks"
            num_twice = sum(count > 1 for count in fetched.values())
            assert num_twice <= (0 if shares else ranks_a_node - 1) or len(ranges) < MANY_BLOCKS
            asked[number] += num_bytes(fetched)
            num_fetched.append(fetched.total())
    wire = [round(got / sent, 3) for got, sent in zip(received, asked, strict=True)]
    record_property("samples_an_epoch", num_expected)
    record_property("blocks_fetched: epochs x nodes", num_fetched)
    record_property("bytes_asked_for", asked)
    record_property("bytes_on_the_wire_of_those", wire)
    assert not small_tree.has_bars or max(wire) <= MAX_WIRE
