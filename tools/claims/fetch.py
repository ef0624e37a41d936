"""Is a download that is cut again and again the same bytes, with hardly a byte fetched twice?

The tree as a tar.gz on a web server, behind a proxy that cuts answers in the middle, resets
connections and answers 503; the command is killed once, too. Bytes are counted where the proxy
sends them.
"""

import hashlib
import subprocess
import tarfile
import time
from urllib.parse import urlsplit

from claim import COMMAND, Claim
from fault_proxy import FaultProxy, Faults

from tests.support.servers import caddy

BAR = 1.1


def main() -> None:
    """Run the claim."""
    with Claim(__doc__ or "") as claim:
        served = claim.scratch / "served"
        served.mkdir()
        archive = served / "CINIC-10.tar.gz"
        with tarfile.open(archive, "w:gz", compresslevel=1) as file:
            file.add(claim.tree, "CINIC-10")
        size = archive.stat().st_size
        sha256 = hashlib.sha256(archive.read_bytes()).hexdigest()
        out = claim.scratch / "fetched" / archive.name
        out.parent.mkdir()
        faults = Faults()
        # Slow until the command is killed, about a tenth of the file later.
        faults.bytes_a_second = size / 10
        (claim.scratch / "web").mkdir()
        with caddy(claim.scratch / "web", served) as url:
            parts = urlsplit(url)
            assert parts.hostname and parts.port
            with FaultProxy((parts.hostname, parts.port), faults) as proxy:
                command = [str(COMMAND), "fetch", str(out), "--accept-hash", sha256, "--quiet"]
                command += ["--url", f"{proxy.url}/{archive.name}"]
                part = out.with_name(f"{out.name}.part")
                process = subprocess.Popen(command)
                while process.poll() is None and not (
                    part.exists() and part.stat().st_size > size / 10
                ):
                    time.sleep(0.05)
                was_killed = process.poll() is None
                process.kill()
                process.wait()
                faults.bytes_a_second = 0.0
                faults.script += ["cut", "503", "cut", "reset", "cut", "cut"]
                faults.chances = {"cut": 0.5, "reset": 0.1, "503": 0.1}
                start = time.perf_counter()
                status = subprocess.run(command).returncode
                seconds = time.perf_counter() - start
                counts, sent = dict(proxy.counts), proxy.num_sent
        is_same = out.exists() and hashlib.sha256(out.read_bytes()).hexdigest() == sha256
        left = sorted(path.name for path in out.parent.iterdir() if path != out)
        ratio = sent / size
        claim.report(
            figure=f"{'the same' if is_same else 'other'} bytes, {ratio:.3f} of them sent, "
            f"{sum(counts.values())} requests of which {counts.get('', 0)} had no fault",
            bar=f"the same bytes, at most {BAR} of them sent, no other file left",
            holds=is_same
            and (status, was_killed, left) == (0, True, [])
            and counts.get("cut", 0) >= 4
            and ratio <= BAR,
            requests_by_fault=counts,
            archive_bytes=size,
            seconds_after_the_kill=round(seconds, 1),
            left=left,
        )


if __name__ == "__main__":
    main()
