"""Does ``verify --against`` find nothing, and does ``unpack`` give the tree back byte for byte?"""

import shutil
import subprocess

from claim import COMMAND, Claim


def main() -> None:
    """Run the claim."""
    with Claim(__doc__ or "") as claim:
        shards = claim.pack("shards")
        verify = subprocess.run(
            [COMMAND, "verify", shards, "--against", claim.tree], stdout=subprocess.PIPE, text=True
        )
        out = claim.scratch / "tree"
        unpack = subprocess.run([COMMAND, "unpack", shards, out, "--quiet"])
        diff = subprocess.run(
            ["diff", "-rq", claim.tree, out], stdout=subprocess.PIPE, text=True
        )  # fmt: skip
        num_files = sum(1 for _ in out.glob("*/*/*.png"))
        differences = len(diff.stdout.splitlines())
        shutil.rmtree(out, ignore_errors=True)
        claim.report(
            figure=f"verify: {verify.stdout.strip()}; {num_files:,} files unpacked, "
            f"{differences} differences",
            bar="no fault, no difference",
            holds=verify.returncode == unpack.returncode == diff.returncode == differences == 0,
        )


if __name__ == "__main__":
    main()
