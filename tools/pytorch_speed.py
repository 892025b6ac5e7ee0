"""Benchmarks of clipping and generation in PyTorch, for pytorch_reference.py."""

import resource
import statistics
import sys
import time

import torch
import torch.nn as nn

import pytorch_generate

WARMUP = 3
# A recurrent model has no context to fill; so many tokens are one timed pass.
RECURRENT_PASS = 256


def peak_rss_bytes():
    """Peak memory of this process in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def summary(values):
    """Smallest, median and largest."""
    return {"min": min(values), "median": statistics.median(values), "max": max(values)}


def milliseconds(function, steps, before=lambda: None):
    """The time of each call in milliseconds, without that of `before`."""
    times = []
    for _ in range(WARMUP + steps):
        before()
        started = time.perf_counter()
        function()
        times.append(1e3 * (time.perf_counter() - started))
    return times[WARMUP:]


def clip(model, optimizer, threshold, steps):
    """Reads, measures, clips, and clips and updates, gradients of the model's shapes."""
    params = list(model.parameters())
    for param in params:
        param.grad = torch.randn_like(param)
    gradients = [param.grad for param in params]

    made = [gradient.clone() for gradient in gradients]

    def make():
        """Writes gradients longer than the threshold, like a backward pass."""
        torch._foreach_copy_(gradients, made)

    def clip_and_update():
        nn.utils.clip_grad_norm_(params, threshold)
        optimizer.step()

    parts = {
        "read": lambda: [gradient.sum() for gradient in gradients],
        "norm": lambda: nn.utils.get_total_norm(gradients),
        "clip": lambda: nn.utils.clip_grad_norm_(params, threshold),
        "clip_and_update": clip_and_update,
    }
    with torch.no_grad():
        times = {name: summary(milliseconds(part, steps, make)) for name, part in parts.items()}
    return {"parameters": sum(param.numel() for param in params), "tensors": len(params),
            "ms": times}


@torch.inference_mode()
def generate(model, steps):
    """Samples one text at a time by the fastest form, in passes from an empty state or context."""
    model.eval()
    length = getattr(model, "context", RECURRENT_PASS)
    name, step, start = pytorch_generate.fastest(model, length)
    passes = max(1, steps // length)
    rates = [pytorch_generate.rate(step, start(), length) for _ in range(passes)]
    return {"tokens": length * passes, "tokens_per_second": summary(rates), "form": name}
