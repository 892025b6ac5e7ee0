"""Draws loss and gradient norm of several runs, from their events.jsonl, as one SVG.

    python tools/plot_runs.py docs/divergence.svg "no clipping=runs/a" "global-norm:1=runs/b"
"""
import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt

COLOURS = ["#c2410c", "#0f766e", "#4338ca", "#a16207"]


def read(folder):
    """Steps, losses, norms before clipping and thresholds of a run."""
    steps, losses, norms, threshold = [], [], [], None
    for line in Path(folder, "events.jsonl").read_text().splitlines():
        event = json.loads(line)
        if event["event"] != "step":
            continue
        steps.append(event["step"])
        # A loss that is not finite is null, and leaves a gap.
        losses.append(event["loss"] if event["loss"] is not None else float("nan"))
        bad = event["clip"]["non_finite"] > 0
        norms.append(float("nan") if bad else event["clip"]["norm_before"])
        threshold = event["clip"]["threshold"] or threshold
    return steps, losses, norms, threshold


def main(out, *runs):
    plt.rcParams.update({"font.family": "sans-serif", "font.size": 10, "svg.hashsalt": "shears"})
    figure, (top, bottom) = plt.subplots(2, 1, sharex=True, figsize=(8, 5.2))
    for colour, run in zip(COLOURS, runs):
        label, folder = run.split("=", 1)
        steps, losses, norms, threshold = read(folder)
        top.plot(steps, losses, color=colour, linewidth=1.2, label=label)
        bottom.plot(steps, norms, color=colour, linewidth=0.9)
        if threshold is not None:
            bottom.axhline(threshold, color=colour, linewidth=0.8, linestyle=":")
        if norms[-1] != norms[-1]:
            last = max(step for step, norm in zip(steps, norms) if norm == norm)
            for axis in (top, bottom):
                # The transform puts the mark at the upper edge, whatever the scale is.
                axis.plot(last, 0.97, marker="^", markersize=8, color=colour,
                          transform=axis.get_xaxis_transform(), clip_on=False)
            top.annotate(f"not finite after step {last}", (last, 0.9), color=colour,
                         xycoords=top.get_xaxis_transform(), xytext=(10, 0),
                         textcoords="offset points")
    top.set_ylabel("loss, nats a token")
    bottom.set_ylabel("gradient norm before clipping")
    bottom.set_xlabel("step")
    for axis in (top, bottom):
        axis.set_yscale("log")
        axis.set_xscale("log")
        # What diverges leaves the picture, so that what converges can be seen.
        low = min(min(line.get_ydata()) for line in axis.lines if len(line.get_ydata()) > 9)
        axis.set_ylim(0.7 * low, min(axis.get_ylim()[1], 2e3))
        axis.grid(alpha=0.25, which="both")
        axis.spines[["top", "right"]].set_visible(False)
    top.legend(frameon=False, loc="upper right")
    figure.tight_layout()
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, metadata={"Date": None})


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
