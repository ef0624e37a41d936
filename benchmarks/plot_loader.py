"""Draw the JSON lines of ``bench_loader.py``: each contender's best setting, a bar each.

python benchmarks/plot_loader.py loader.jsonl loader.png
"""

import argparse
import json
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt

_TITLES = {
    ("warm", "uint8"): "warm, uint8",
    ("warm", "float32"): "warm, float32 normalised",
    ("cold", "uint8"): "cold page cache, uint8",
}


def main() -> None:
    """Read the lines and write the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("lines", type=argparse.FileType("r"))
    parser.add_argument("picture")
    args = parser.parse_args()
    panels: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
    for line in args.lines:
        row = json.loads(line)
        panel = panels.setdefault((row["cache"], row["dtype"]), {})
        best = panel.get(row["contender"])
        if best is None or row["images_per_second"] > best["images_per_second"]:
            panel[row["contender"]] = row

    figure, axes = plt.subplots(
        1, len(panels), figsize=(4.2 * len(panels), 2.6), squeeze=False, layout="constrained"
    )
    for axis, (kind, panel) in zip(axes[0], panels.items(), strict=True):
        names = list(panel)
        rates = [panel[name]["images_per_second"] for name in names]
        bars = axis.barh(
            names, rates, color=["#4477aa" if n == "cinic-shards" else "#bbbbbb" for n in names]
        )
        axis.bar_label(bars, [f"{rate:,.0f}" for rate in rates], padding=3)
        axis.set_title(_TITLES[kind], fontsize=10)
        axis.set_xlim(0, 1.25 * max(rates))
        axis.invert_yaxis()
        axis.spines[["top", "right"]].set_visible(False)
        axis.xaxis.set_major_formatter(lambda value, _: f"{value / 1000:,.0f}k")
    figure.supxlabel("images a second, each at its best setting", fontsize=9)
    figure.savefig(args.picture, dpi=150)


if __name__ == "__main__":
    main()
