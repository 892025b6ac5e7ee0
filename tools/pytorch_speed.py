"""Times of PyTorch apart from training steps, for pytorch_reference.py: clipping and generation."""

import resource
import statistics
import sys
import time

import torch
import torch.nn as nn

WARMUP = 3
# A recurrent model has no context to fill; so many tokens are one timed pass.
RECURRENT_PASS = 256


def peak_rss_bytes():
    """The most memory that this process has had, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def summary(values):
    """Smallest, median and largest."""
    return {"min": min(values), "median": statistics.median(values), "max": max(values)}


def milliseconds(function, steps):
    """Each of many calls, in milliseconds."""
    times = []
    for _ in range(WARMUP + steps):
        started = time.perf_counter()
        function()
        times.append(1e3 * (time.perf_counter() - started))
    return times[WARMUP:]


def clip(model, optimizer, threshold, steps):
    """Reads, clips, and clips and updates, gradients of the model's shapes."""
    params = list(model.parameters())
    for param in params:
        param.grad = torch.randn_like(param)

    def clip_and_update():
        nn.utils.clip_grad_norm_(params, threshold)
        optimizer.step()

    parts = {
        "read": lambda: [param.grad.sum() for param in params],
        "clip": lambda: nn.utils.clip_grad_norm_(params, threshold),
        "clip_and_update": clip_and_update,
    }
    with torch.no_grad():
        times = {name: summary(milliseconds(part, steps)) for name, part in parts.items()}
    return {"parameters": sum(param.numel() for param in params), "tensors": len(params),
            "ms": times}


@torch.inference_mode()
def generate(model, steps):
    """Samples at temperature 1, one text at a time, in passes from an empty state or context."""
    model.eval()
    context = getattr(model, "context", None)
    length = context or RECURRENT_PASS
    rates = []
    # The first pass warms up.
    for _ in range(1 + max(1, steps // length)):
        token = torch.zeros(1, 1, dtype=torch.long)
        state = model.cache() if context else None
        started = time.perf_counter()
        for _ in range(length):
            logits, state = model(token, state)
            token = torch.multinomial(logits[:, -1].softmax(-1), 1)
            # The text is wanted outside of torch, one token at a time.
            token.item()
        rates.append(length / (time.perf_counter() - started))
    return {"tokens": length * len(rates[1:]), "tokens_per_second": summary(rates[1:])}
