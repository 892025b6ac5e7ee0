"""Reads the event files of a run with TensorBoard itself, and compares them with its events.jsonl.

Usage: python tools/check_tensorboard.py runs/NAME   (needs tensorboard and a run trained with
       --tensorboard, possibly killed and resumed)

Checks that TensorBoard has every scalar of the log, at its step and in single precision, every
sample, a histogram per tensor and fifty steps, and plan.toml as hyperparameters.
"""

import json
import re
import struct
import sys
import tomllib
from pathlib import Path

from tensorboard.backend.event_processing import data_provider
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.context import RequestContext
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import plugin_data_pb2

WINDOW = 50

SCALARS = {
    "loss/train": ("step", lambda event: event["loss"]),
    "training/lr": ("step", lambda event: event["lr"]),
    "training/tokens_per_second": ("step", lambda event: event["tokens_per_second"]),
    "gradient_norm/before": ("step", lambda event: event["clip"]["norm_before"]),
    "gradient_norm/after": ("step", lambda event: event["clip"]["norm_after"]),
    "gradient_norm/threshold": ("step", lambda event: event["clip"]["threshold"]),
    "clipping/coefficient": ("step", lambda event: event["clip"]["coefficient"]),
    "loss/validation": ("evaluation", lambda event: event["val_loss"]),
    "validation/bits_per_character": ("evaluation", lambda event: event["bits_per_char"]),
    "validation/perplexity": ("evaluation", lambda event: event["perplexity"]),
}


def single(value):
    return struct.unpack("f", struct.pack("f", value))[0]


def check_scalars(accumulator, events):
    for tag, (kind, read) in SCALARS.items():
        expected = [(event["step"], single(read(event))) for event in events
                    if event["event"] == kind and read(event) is not None]
        if not expected:
            continue
        found = [(scalar.step, scalar.value) for scalar in accumulator.Scalars(tag)]
        assert found == expected, f"{tag}: {found[:3]}... and not {expected[:3]}..."
        print(f"{tag}: {len(found)} values")
    clipped = [event["clip"]["action"] == "clip" for event in events if event["event"] == "step"]
    windows = [clipped[max(0, end - WINDOW):end] for end in range(1, len(clipped) + 1)]
    expected = [single(sum(window) / len(window)) for window in windows]
    found = [scalar.value for scalar in accumulator.Scalars("clipping/share_clipped")]
    assert found == expected
    print(f"clipping/share_clipped: {len(found)} values")


def check_histograms(accumulator, events):
    steps = [event for event in events if event["event"] == "step"]
    tensors = sorted(steps[0]["clip"]["tensors"])
    assert accumulator.Tags()["histograms"] == [f"norm/{tensor}" for tensor in tensors]
    for tensor in tensors:
        histograms = accumulator.Histograms(f"norm/{tensor}")
        for histogram in histograms:
            first = (histogram.step - 1) // WINDOW * WINDOW
            norms = [event["clip"]["tensors"][tensor] for event in steps
                     if first < event["step"] <= histogram.step]
            value = histogram.histogram_value
            assert value.num == sum(value.bucket) == len(norms), (tensor, histogram.step)
            assert value.min == min(norms) and value.max == max(norms)
            assert abs(value.sum - sum(norms)) <= 1e-9 * sum(norms)
        whole = [event["step"] for event in steps if event["step"] % WINDOW == 0]
        assert [h.step for h in histograms if h.step % WINDOW == 0] == whole
    print(f"histograms: {len(tensors)} tensors, {len(histograms)} each")


def check_texts(accumulator, events):
    samples = [event for event in events if event["event"] == "sample"]
    if not samples:
        return
    metadata = accumulator.SummaryMetadata("sample")
    assert metadata.plugin_data.plugin_name == "text"
    found = accumulator.Tensors("sample")
    assert [tensor.step for tensor in found] == [sample["step"] for sample in samples]
    for tensor, sample in zip(found, samples):
        text = tensor.tensor_proto.string_val[0].decode()
        lines = [line.removeprefix("    ") for line in text.split("\n")]
        assert "\n".join(lines).split() == sample["text"].split()
    print(f"sample: {len(found)} texts")


def check_hyperparameters(accumulator, plan):
    contents = accumulator.PluginTagToContent("hparams")
    read = plugin_data_pb2.HParamsPluginData.FromString
    start = read(contents["_hparams_/session_start_info"]).session_start_info
    experiment = read(contents["_hparams_/experiment"]).experiment
    for key in ["text-sha256", "val-sha256"]:
        plan.pop(key, None)
    assert sorted(start.hparams) == sorted(plan) == sorted(i.name for i in experiment.hparam_infos)
    for name, value in plan.items():
        found = start.hparams[name]
        found = getattr(found, found.WhichOneof("kind"))
        assert found == (", ".join(value) if isinstance(value, list) else value), name
    tags = accumulator.Tags()["scalars"]
    metrics = [metric.name.tag for metric in experiment.metric_infos]
    assert all(metric in tags for metric in metrics), metrics
    print(f"hyperparameters: {len(start.hparams)}, metrics: {', '.join(metrics)}")


def check_layout(accumulator):
    assert accumulator.SummaryMetadata("custom_scalars__config__").plugin_data.plugin_name \
        == "custom_scalars"
    tensor = accumulator.Tensors("custom_scalars__config__")[0].tensor_proto
    layout = layout_pb2.Layout.FromString(tensor.string_val[0])
    tags = accumulator.Tags()["scalars"]
    for chart in layout.category[0].chart:
        curves = [tag for pattern in chart.multiline.tag for tag in tags if re.match(pattern, tag)]
        assert len(curves) == len(chart.multiline.tag), chart
        print(f"chart {chart.title}: {', '.join(curves)}")


def check_pages(folder):
    """The data of TensorBoard's pages, as read by its server."""
    multiplexer = EventMultiplexer().AddRunsFromDirectory(str(folder))
    multiplexer.Reload()
    provider = data_provider.MultiplexerDataProvider(multiplexer, str(folder))
    context = RequestContext()
    for plugin, ask in [("scalars", provider.list_scalars), ("histograms", provider.list_tensors),
                        ("text", provider.list_tensors), ("hparams", provider.list_tensors)]:
        found = ask(context, experiment_id="", plugin_name=plugin)
        tags = sorted(tag for run in found.values() for tag in run)
        print(f"page {plugin}: {len(tags)} tags")
        assert tags or plugin == "text"


def main(run):
    folder = Path(run, "tensorboard")
    lines = Path(run, "events.jsonl").read_text().splitlines()
    events = [json.loads(line) for line in lines]
    # Disables TensorBoard's sampling of long runs.
    accumulator = EventAccumulator(str(folder), size_guidance=dict.fromkeys(
        ["scalars", "histograms", "tensors"], 0))
    accumulator.Reload()
    print(f"{len(list(folder.iterdir()))} event files")
    check_scalars(accumulator, events)
    check_histograms(accumulator, events)
    check_texts(accumulator, events)
    check_hyperparameters(accumulator, tomllib.loads(Path(run, "plan.toml").read_text()))
    check_layout(accumulator)
    check_pages(folder)
    print("TensorBoard agrees with the log")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
