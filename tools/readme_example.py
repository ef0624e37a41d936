"""Run the README's training example unchanged, on ``shards`` in the current folder."""

import re
from pathlib import Path

README = Path(__file__).resolve().parents[1] / "README.md"


def example() -> str:
    """Return the README's Python block."""
    blocks: list[str] = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    if len(blocks) != 1:
        raise SystemExit(f"{README.name}: {len(blocks)} Python blocks, expected one")
    return blocks[0]


if __name__ == "__main__":
    exec(compile(example(), "README.md", "exec"))
