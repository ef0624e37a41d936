"""Does a packing job that was killed at any moment end as if it had never been?

40 times, with 1 to 4 workers, the command or one of its workers gets SIGKILL at a random moment of
a job's usual time; then the same command runs again. Linux only: workers are found in /proc.
"""

import hashlib
import os
import random
import signal
import subprocess
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

from claim import COMMAND, Claim

NUM_KILLS = 40


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def children_of(process_id: int) -> list[int]:
    """The processes that one started."""
    with suppress(FileNotFoundError):
        text = Path(f"/proc/{process_id}/task/{process_id}/children").read_text()
        return [int(number) for number in text.split()]
    return []


def main() -> None:
    """Run the claim."""
    with Claim(__doc__ or "") as claim:
        num_images = sum(1 for _ in claim.tree.glob("*/*/*.png"))
        size = str(max(1, num_images // 100))
        expected = digests(claim.pack("undisturbed", "--shard-size", size))
        start = time.perf_counter()
        claim.pack("timed", "--shard-size", size, "--workers", "2")
        usual_seconds = time.perf_counter() - start
        chance = random.Random(0)
        out = claim.scratch / "out"
        outcomes: Counter[str] = Counter()
        bad = []
        for number in range(NUM_KILLS):
            workers = chance.choice([1, 2, 3, 4])
            command = [str(COMMAND), "pack", str(claim.tree), str(out), "--quiet"]
            command += ["--shard-size", size]
            process = subprocess.Popen(
                [*command, "--workers", str(workers)], stderr=subprocess.DEVNULL
            )
            time.sleep(chance.uniform(0.1, 1.1) * usual_seconds)
            started = children_of(process.pid)
            victim = chance.choice([process.pid, *started[-workers:]])
            with suppress(ProcessLookupError):
                os.kill(victim, signal.SIGKILL)
            process.wait()
            who = "the command" if victim == process.pid else "a worker"
            if out.exists() and digests(out) == expected:
                outcomes[f"{who}: had finished"] += 1
            else:
                done = any(out.glob("_packing/*.tar.json"))
                outcomes[f"{who}: {'went on' if done else 'began anew'}"] += 1
                again = subprocess.run([*command, "--workers", str(chance.choice([1, 2, 3, 4]))])
                if again.returncode != 0 or digests(out) != expected:
                    bad.append(f"kill {number} of {who}: status {again.returncode}")
            for path in sorted(out.rglob("*"), reverse=True):
                path.unlink() if path.is_file() else path.rmdir()
            out.rmdir()
        claim.report(
            figure=f"{NUM_KILLS - len(bad)} of {NUM_KILLS} ended with the same SHA-256s and no "
            "other file",
            bar=f"{NUM_KILLS} of {NUM_KILLS}",
            holds=not bad,
            outcomes=dict(sorted(outcomes.items())),
            usual_seconds=round(usual_seconds, 2),
            bad=bad,
        )


if __name__ == "__main__":
    main()
