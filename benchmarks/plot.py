"""Draws the README's plot from `benchmarks/results/compare.json`.

python -m benchmarks.plot
"""

import json
import statistics

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt

from benchmarks.compare import BEFORE, OURS, RESULTS, ROOT

TARGET = ROOT / "docs" / "images" / "bench.svg"
# Legible on a light page and on a dark one.
OURS_COLOUR, PEERS_COLOUR, TEXT = "#2f81f7", "#8b949e", "#7d8590"


def main() -> None:
    """Draw whole-process seconds, the fastest on top; not those of another checkout of ours."""
    report = json.loads((RESULTS / "compare.json").read_text())
    figures = {name: runs for name, runs in report["figures"].items() if name != BEFORE}
    seconds = {name: [each["seconds"] for each in runs["small"]] for name, runs in figures.items()}
    names = sorted(seconds, key=lambda name: statistics.median(seconds[name]))
    medians = [statistics.median(seconds[name]) for name in names]
    plt.rcParams |= {"svg.hashsalt": "bench", "svg.fonttype": "none", "font.family": "sans-serif", "font.size": 11}
    figure, axes = plt.subplots(figsize=(8, 0.6 + 0.4 * len(names)))
    colours = [OURS_COLOUR if name == OURS else PEERS_COLOUR for name in names]
    spread = [
        [median - min(seconds[name]) for name, median in zip(names, medians, strict=True)],
        [max(seconds[name]) - median for name, median in zip(names, medians, strict=True)],
    ]
    axes.barh(names, medians, color=colours, height=0.62, xerr=spread, error_kw={"ecolor": TEXT, "capsize": 2})
    for row, (name, median) in enumerate(zip(names, medians, strict=True)):
        times = "" if name == OURS else f" ({median / medians[names.index(OURS)]:.1f}x)"
        axes.annotate(
            f"{median:.1f} s{times}",
            (max(seconds[name]), row),
            (6, 0),
            textcoords="offset points",
            va="center",
            color=TEXT,
        )
    axes.invert_yaxis()
    axes.set_xlim(0, max(map(max, seconds.values())) * 1.25)
    machine = report["machine"]
    axes.set_title(
        f"{report['rows']['small']:,} images from Parquet to published predictions, {machine['cores']} cores: seconds",
        loc="left",
        color=TEXT,
        fontsize=11,
    )
    axes.tick_params(colors=TEXT, length=0)
    axes.xaxis.set_visible(False)
    for side in axes.spines.values():
        side.set_visible(False)
    figure.savefig(TARGET, transparent=True, bbox_inches="tight", metadata={"Date": None})
    print(TARGET.relative_to(ROOT))


if __name__ == "__main__":
    main()
