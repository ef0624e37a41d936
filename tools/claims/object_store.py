"""Does packing straight to an object store give the bytes of a folder, also where it is killed?

On SeaweedFS, which this starts: the SHA-256s equal those in a folder; ``verify`` finds them whole
beside the tree; jobs (``--repeats``) that are killed at a random moment and run again end with the
same bytes, and with no file and no multipart upload beside them.
"""

import hashlib
import os
import random
import subprocess
import time
from collections import Counter
from pathlib import Path

import obstore
from claim import COMMAND, Claim, digests

from tests.support.servers import S3Server, seaweedfs


def in_bucket(server: S3Server, prefix: str) -> dict[str, str]:
    """SHA-256 of everything below a prefix, by a client that is not the package's."""
    client = server.client()
    found = [item["path"] for batch in obstore.list(client, prefix) for item in batch]
    digests = {}
    for path in found:
        digest = hashlib.sha256()
        for part in obstore.get(client, path).stream():
            digest.update(part)
        digests[path.removeprefix(f"{prefix}/")] = digest.hexdigest()
    return digests


def main() -> None:
    """Run the claim."""
    with Claim(__doc__ or "") as claim, seaweedfs(claim.scratch) as server:
        environment = {**os.environ, **server.environment}
        size = str(max(1, sum(1 for _ in claim.tree.glob("*/*/*.png")) // 30))
        options = ["--shard-size", size, "--quiet"]

        start = time.perf_counter()
        expected = digests(claim.pack("local", "--shard-size", size))
        local_seconds = time.perf_counter() - start

        def command(*arguments: str | Path) -> list[str]:
            return [str(part) for part in (COMMAND, *arguments)]

        place = f"s3://{server.bucket}/cinic"
        start = time.perf_counter()
        subprocess.run(command("pack", claim.tree, place, *options), env=environment, check=True)
        seconds = time.perf_counter() - start
        bad = [] if in_bucket(server, "cinic") == expected else ["packed: other bytes"]
        verify = command("verify", place, "--against", claim.tree, "--quiet")
        if subprocess.run(verify, env=environment).returncode:
            bad.append("verify: not whole")

        chance = random.Random(0)
        outcomes: Counter[str] = Counter()
        for number in range(claim.args.repeats):
            prefix = f"kill-{number}"
            job = command("pack", claim.tree, f"s3://{server.bucket}/{prefix}", *options)
            process = subprocess.Popen(job, env=environment, stderr=subprocess.DEVNULL)
            time.sleep(chance.uniform(0.2, 1.0) * seconds)
            process.kill()
            process.wait()
            found = in_bucket(server, prefix)
            if found == expected:
                outcomes["had finished"] += 1
                continue
            is_noted = any(name.endswith(".tar.json") for name in found)
            outcomes["went on" if is_noted else "began anew"] += 1
            again = subprocess.run(job, env=environment)
            if again.returncode or in_bucket(server, prefix) != expected:
                bad.append(f"kill {number}: status {again.returncode}")
        if num_uploads := server.num_uploads():
            bad.append(f"{num_uploads} multipart uploads that nobody ended")
        kills = f"{claim.args.repeats} jobs killed and run again"
        claim.report(
            figure=f"{len(bad)} faults: {len(expected)} files packed and verified, {kills}",
            bar="no fault",
            holds=not bad,
            outcomes=dict(sorted(outcomes.items())),
            seconds={"folder": round(local_seconds, 1), "object store": round(seconds, 1)},
            bad=bad,
        )


if __name__ == "__main__":
    main()
