"""What do latency, faults and a dead server do to an epoch from S3?

SeaweedFS behind ``tools/fault_proxy.py``, on loopback, ``zstd``, uint8. Latency: the rate at 50 ms
beside that at 0, both through the proxy, which alone must pass 80 % of a direct connection. Faults:
5 % of each kind at once, and 50 ms; the epochs must be a folder's to the bit. A dead server: two
ranks under torchrun each end with one error, in the time that the options allow.
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

from claim import COMMAND, Claim
from fault_proxy import FAULTS, FaultProxy, Faults

from tests.support.servers import S3Server, address_of, seaweedfs

LATENCY_SECONDS = 0.05
FAULT_SHARE = 0.05
BAR_PROXY, BAR_LATENCY = 0.8, 0.7
QUICK = {
    "connect_timeout": 1,
    "read_timeout": 1,
    "timeout": 4,
    "retry_timeout": 4,
    "max_retries": 4,
}
"""Seconds, where a server dies: a request ends within 8.5, which are the waits between refused
tries, at most 0.1, 0.4, 1.6 and 6.4."""
SLACK_SECONDS = 3.0
"""For a rank's threads to end."""

RATES = """
import json, sys, time
from cinic_shards import ShardLoader
from cinic_shards.loader.warmup import warm_up

place, epochs = sys.argv[1:]
warm_up()
loader = ShardLoader(place, batch_size=512)
rates = []
for epoch in range(int(epochs) + 1):
    start = time.perf_counter()
    count = sum(len(batch.labels) for batch in loader)
    rates.append(count / (time.perf_counter() - start))
print(json.dumps(rates[1:]))
"""
HASHES = """
import hashlib, json, sys
from cinic_shards import Augment, ShardLoader
from cinic_shards.store import open_store

place, epochs, options = sys.argv[1:]
store = open_store(place, json.loads(options))
loader = ShardLoader(store, batch_size=512, augment=Augment(), tail="short")
for epoch in range(int(epochs)):
    digest = hashlib.blake2b(digest_size=16)
    for batch in loader:
        for tensor in (batch.indices, batch.labels, batch.images):
            digest.update(tensor.contiguous().numpy().data)
    print(digest.hexdigest())
"""
DIES = """
import json, os, sys, time
from cinic_shards import ShardLoader
from cinic_shards.errors import CinicShardsError
from cinic_shards.store import open_store

place, out, options = sys.argv[1:]
store = open_store(place, json.loads(options))
loader = ShardLoader(store, global_batch_size=64)
said = {}
try:
    for epoch in range(1000):
        for step, batch in enumerate(loader):
            if epoch == 0 and step == 2:
                open(f"{out}/{os.environ['RANK']}.begun", "w").close()
            time.sleep(0.001)
            last = time.monotonic()
except CinicShardsError as error:
    waited = time.monotonic() - last
    said = {"waited_seconds": round(waited, 1), "error": f"{type(error).__name__}: {error}"}
with open(f"{out}/{os.environ['RANK']}.json", "w") as file:
    json.dump(said, file)
"""


def run(code: str, server: S3Server, *arguments: Any) -> list[str]:
    """What a script printed, in a fresh process."""
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env=os.environ | server.environment,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return done.stdout.split("\n")[:-1]


def behind(server: S3Server, proxy: FaultProxy) -> S3Server:
    """The server, as it is reached through the proxy."""
    return S3Server(proxy.url, server.bucket)


def measure_latency(claim: Claim, server: S3Server, place: str) -> dict[str, float]:
    """Median rates, in turn."""
    rates: dict[str, list[float]] = {}
    slow = Faults(latency_seconds=LATENCY_SECONDS)
    with (
        FaultProxy(address_of(server.endpoint), Faults()) as fast,
        FaultProxy(address_of(server.endpoint), slow) as far,
    ):
        ways = {"direct": server, "0 ms": behind(server, fast), "50 ms": behind(server, far)}
        for _ in range(claim.args.repeats):
            for name, way in ways.items():
                rates.setdefault(name, []).extend(json.loads(run(RATES, way, place, 3)[-1]))
    return {name: statistics.median(values) for name, values in rates.items()}


def die(kind: str, server: S3Server, place: str, scratch: Path) -> list[dict[str, Any]]:
    """What each of two ranks said, and how long it had waited for a batch."""
    folder = scratch / f"dies-{kind}"
    folder.mkdir()
    script = folder / "dies.py"
    script.write_text(DIES)
    with ExitStack() as stack:
        proxy = stack.enter_context(FaultProxy(address_of(server.endpoint), Faults()))
        command = [
            Path(sys.executable).with_name("torchrun"), "--standalone", "--nproc-per-node=2",
            script, place, folder, json.dumps(QUICK),
        ]  # fmt: skip
        process = subprocess.Popen(
            [*map(str, command)], env=os.environ | behind(server, proxy).environment
        )
        while len(list(folder.glob("*.begun"))) < 2:
            assert process.poll() is None, "a rank ended before the server died"
            time.sleep(0.01)
        if kind == "gone":
            stack.close()
        else:
            proxy.faults.chances = {kind: 1.0}
        process.wait(timeout=120)
        return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


def main() -> None:
    """Run the claim."""
    with Claim(__doc__ or "") as claim, ExitStack() as stack:
        is_real = claim.args.tree is not None
        blocks = [] if is_real else ["--block-size", "16", "--shard-size", "160"]
        local = claim.pack("local", "--encoding", "zstd", *blocks)
        folder = claim.scratch / "seaweedfs"
        folder.mkdir()
        server = stack.enter_context(seaweedfs(folder))
        place = f"s3://{server.bucket}/cinic"
        subprocess.run(
            [COMMAND, "convert", local, place, "--encoding", "zstd", "--workers", "1", "--quiet"],
            env=os.environ | server.environment, check=True,
        )  # fmt: skip
        rates = measure_latency(claim, server, place)
        proxy_share = rates["0 ms"] / rates["direct"]
        latency_share = rates["50 ms"] / rates["0 ms"]

        epochs = 3
        chances = {kind: FAULT_SHARE for kind in FAULTS if kind != "etag"}
        with FaultProxy(address_of(server.endpoint), Faults(LATENCY_SECONDS, 0, chances)) as proxy:
            options = json.dumps({"read_timeout": 1})
            found = run(HASHES, behind(server, proxy), place, epochs, options)
            counts = dict(proxy.counts)
        expected = run(HASHES, server, local, epochs, "{}")

        dead = {kind: die(kind, server, place, claim.scratch) for kind in ("gone", "stall", "503")}
        allowed = QUICK["retry_timeout"] + QUICK["timeout"] + SLACK_SECONDS
        in_time = {
            kind: sum(bool(one) and one["waited_seconds"] <= allowed for one in said)
            for kind, said in dead.items()
        }
        claim.report(
            figure={
                "the proxy at 0 ms, of a direct connection": round(proxy_share, 3),
                "at 50 ms, of 0 ms": round(latency_share, 3),
                "epochs that differ under faults": sum(
                    a != b for a, b in zip(found, expected, strict=True)
                ),
                "ranks of 2 that ended in time with one error": in_time,
            },
            bar=f"with a real tree at least {BAR_PROXY:g} and {BAR_LATENCY:g}; 0 of {epochs}; "
            f"both, in {allowed:g} s",
            holds=found == expected
            and all(count == 2 for count in in_time.values())
            and (not is_real or (proxy_share >= BAR_PROXY and latency_share >= BAR_LATENCY)),
            images_per_second={name: round(rate) for name, rate in rates.items()},
            requests_by_fault=counts,
            dead_server=dead,
        )


if __name__ == "__main__":
    main()
