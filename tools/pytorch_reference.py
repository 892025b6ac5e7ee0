"""Usage: python tools/pytorch_reference.py --data FILE --preset lstm-128 [--steps N] [--seed N] ...
       python tools/pytorch_reference.py --preset lstm-128 --bench N [--part train|clip|generate]
       (both need torch; --help lists all options)

Trains a preset in PyTorch, in float32 on the CPU, and prints the result as one JSON line to
compare the Rust trainer with.  Progress goes to stderr.
"""

import argparse
import json
import math
import statistics
import sys
import time
from pathlib import Path

import torch
import torch.nn as nn
import torch.nn.functional as F

import pytorch_speed
from pytorch_generate import rotate

PROGRESS_EVERY = 250
EVALUATION_CHUNK = 1000
BENCH_VOCABULARY = 65
BENCH_WARMUP = 10


def recurrent_preset(cell, hidden):
    """Two layers, Adam at a constant rate."""
    return {"cell": cell, "hidden": hidden, "layers": 2, "batch": 50, "window": 50,
            "steps": 2000, "lr": 2e-3, "clip": 5.0}


PRESETS = {
    "rnn-128": recurrent_preset("rnn", 128),
    "lstm-128": recurrent_preset("lstm", 128),
    "gru-128": recurrent_preset("gru", 128),
    "lstm-512": recurrent_preset("lstm", 512),
    "gru-512": recurrent_preset("gru", 512),
    "gpt-128": {"cell": "gpt", "layers": 4, "heads": 4, "hidden": 128, "window": 64,
                "batch": 12, "dropout": 0.0, "steps": 2000, "lr": 1e-3, "min_lr": 1e-4,
                "warmup": 100, "clip": 1.0},
    "gpt-384": {"cell": "gpt", "layers": 6, "heads": 6, "hidden": 384, "window": 256,
                "batch": 64, "dropout": 0.2, "steps": 5000, "lr": 1e-3, "min_lr": 1e-4,
                "warmup": 100, "clip": 1.0},
}
PRESETS |= {f"llama-{width}": PRESETS[f"gpt-{width}"] | {"llama": True} for width in (128, 384)}


# Models ---------------------------------------------------------------------------------

class Recurrent(nn.Module):
    """Embedding, stacked recurrent layers, output layer; PyTorch's own initialisation."""

    def __init__(self, vocabulary, cell, hidden, layers):
        super().__init__()
        kind = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}[cell]
        self.embedding = nn.Embedding(vocabulary, hidden)
        self.layers = kind(hidden, hidden, layers, batch_first=True)
        self.output = nn.Linear(hidden, vocabulary)

    def forward(self, tokens, state=None):
        top, state = self.layers(self.embedding(tokens), state)
        return self.output(top), state


def rotation(context, size, theta=10_000):
    """Cosines and sines of the angles of rotary positions, [2, context, size / 2]."""
    frequencies = theta ** (-torch.arange(0, size, 2, dtype=torch.float64) / size)
    angles = torch.arange(context, dtype=torch.float64)[:, None] * frequencies
    return torch.stack([angles.cos(), angles.sin()]).float()


class Attention(nn.Module):
    """Causal multi-head self-attention; several query heads may share a key head."""

    def __init__(self, width, heads, kv_heads, dropout, bias):
        super().__init__()
        self.heads, self.kv_heads, self.size = heads, kv_heads, width // heads
        self.dropout = dropout
        self.qkv = nn.Linear(width, (heads + 2 * kv_heads) * self.size, bias=bias)
        self.projection = nn.Linear(width, width, bias=bias)

    def parts(self, x):
        """Queries, keys and values, each [batch, heads, window, size]."""
        batch, window, _ = x.shape
        heads = self.heads, self.kv_heads, self.kv_heads
        parts = self.qkv(x).split([count * self.size for count in heads], dim=2)
        return (part.view(batch, window, count, self.size).transpose(1, 2)
                for part, count in zip(parts, heads))

    def forward(self, x, cache=None, position=0, angles=None):
        batch, window, width = x.shape
        query, key, value = self.parts(x)
        if angles is not None:
            query, key = rotate(query, angles), rotate(key, angles)
        if cache is not None:
            end = position + window
            cache[0][:, :, position:end], cache[1][:, :, position:end] = key, value
            key, value = cache[0][:, :, :end], cache[1][:, :, :end]
        dropout = self.dropout if self.training else 0.0
        # With a cache, one token is read at a time, so nothing is masked.
        mixed = F.scaled_dot_product_attention(query, key, value, dropout_p=dropout,
                                               is_causal=cache is None,
                                               enable_gqa=self.kv_heads < self.heads)
        mixed = mixed.transpose(1, 2).reshape(batch, window, width)
        return F.dropout(self.projection(mixed), self.dropout, self.training)


class Mlp(nn.Module):
    """The two-layer MLP with the exact GELU."""

    def __init__(self, width, dropout):
        super().__init__()
        self.dropout = dropout
        self.expand = nn.Linear(width, 4 * width)
        self.project = nn.Linear(4 * width, width)

    def forward(self, x):
        return F.dropout(self.project(F.gelu(self.expand(x))), self.dropout, self.training)


class GatedMlp(nn.Module):
    """SwiGLU, with as many weights as an MLP of four times the width."""

    def __init__(self, width, dropout):
        super().__init__()
        self.dropout = dropout
        inner = -(-8 * width // 3 // 32) * 32
        self.expand = nn.Linear(width, 2 * inner, bias=False)
        self.project = nn.Linear(inner, width, bias=False)

    def forward(self, x):
        gate, up = self.expand(x).chunk(2, -1)
        return F.dropout(self.project(F.silu(gate) * up), self.dropout, self.training)


class Block(nn.Module):
    """Pre-norm attention and MLP, each with a residual connection."""

    def __init__(self, width, heads, kv_heads, dropout, llama):
        super().__init__()
        self.norm_1 = make_norm(width, llama)
        self.attention = Attention(width, heads, kv_heads, dropout, bias=not llama)
        self.norm_2 = make_norm(width, llama)
        self.mlp = (GatedMlp if llama else Mlp)(width, dropout)

    def forward(self, x, cache=None, position=0, angles=None):
        x = x + self.attention(self.norm_1(x), cache, position, angles)
        return x + self.mlp(self.norm_2(x))


def make_norm(width, llama):
    """RMSNorm for Llama, else layer norm."""
    return nn.RMSNorm(width, eps=1e-5) if llama else nn.LayerNorm(width)


class Transformer(nn.Module):
    """GPT-2 or Llama; the output layer shares the token embedding unless untied."""

    def __init__(self, vocabulary, context, width, heads, layers, dropout, std, tied=True,
                 llama=False, kv_heads=None):
        super().__init__()
        self.context, self.width, self.heads = context, width, heads
        self.kv_heads = kv_heads or heads
        self.dropout = dropout
        self.token_embedding = nn.Embedding(vocabulary, width)
        self.position_embedding = None if llama else nn.Embedding(context, width)
        angles = rotation(context, width // heads) if llama else None
        self.register_buffer("angles", angles, persistent=False)
        self.blocks = nn.ModuleList(Block(width, heads, self.kv_heads, dropout, llama)
                                    for _ in range(layers))
        self.final_norm = make_norm(width, llama)
        self.output = nn.Linear(width, vocabulary, bias=False)
        if tied:
            self.output.weight = self.token_embedding.weight
        self.initialise(layers, std or 0.02 * math.sqrt(768 / width))

    def initialise(self, layers, std):
        """GPT-2's initialisation, scaled from its 0.02 at width 768."""
        for name, param in self.named_parameters():
            if "norm" in name:
                continue
            if name.endswith("bias"):
                nn.init.zeros_(param)
            else:
                # Every block adds twice to the residual stream, so the layers that write
                # to it start smaller, which keeps its variance independent of the depth.
                residual = name.endswith(("projection.weight", "project.weight"))
                nn.init.normal_(param, std=std / math.sqrt(2 * layers) if residual else std)

    def cache(self):
        """The initial state: a position, and an empty cache of each block's keys and values."""
        shape = 2, 1, self.kv_heads, self.context, self.width // self.heads
        dtype = self.token_embedding.weight.dtype
        return 0, [torch.empty(shape, dtype=dtype) for _ in self.blocks]

    def forward(self, tokens, state=None):
        start, caches = state or (0, [None] * len(self.blocks))
        end = start + tokens.shape[1]
        x, angles = self.token_embedding(tokens), None
        if self.position_embedding is None:
            angles = self.angles[:, start:end]
        else:
            x = x + self.position_embedding.weight[start:end]
        x = F.dropout(x, self.dropout, self.training)
        for block, cache in zip(self.blocks, caches):
            x = block(x, cache, start, angles)
        # In training a transformer carries no state.
        return self.output(self.final_norm(x)), state and (end, caches)


def make_model(p, vocabulary):
    """The freshly initialised model of a preset."""
    if p["cell"] == "gpt":
        return Transformer(vocabulary, p["window"], p["hidden"], p["heads"], p["layers"],
                           p["dropout"], p.get("std"), not p.get("untied"), p.get("llama", False),
                           p.get("kv_heads"))
    return Recurrent(vocabulary, p["cell"], p["hidden"], p["layers"])


# Data -----------------------------------------------------------------------------------

def load_text(path):
    """Character tokens of the training and of the validation part, and the vocabulary size."""
    # Decoding the bytes directly keeps line endings.
    text = Path(path).read_bytes().decode("utf-8")
    characters = sorted(set(text))
    index = {character: i for i, character in enumerate(characters)}
    tokens = torch.tensor([index[character] for character in text])
    split = len(tokens) * 9 // 10
    return tokens[:split], tokens[split:], len(characters)


def stream_batches(tokens, batch, window):
    """Endless consecutive windows of parallel streams; the flag marks an epoch's start."""
    length = (len(tokens) - 1) // batch
    if length < window:
        sys.exit("the training text is too short for this batch and window")
    inputs = tokens[:batch * length].view(batch, length)
    targets = tokens[1:batch * length + 1].view(batch, length)
    while True:
        for i in range(length // window):
            part = slice(i * window, (i + 1) * window)
            yield inputs[:, part], targets[:, part], i == 0


def random_batches(tokens, batch, window):
    """Endless windows at uniformly random positions."""
    if len(tokens) <= window:
        sys.exit("the training text is too short for this window")
    offsets = torch.arange(window)
    while True:
        index = torch.randint(len(tokens) - window, (batch, 1)) + offsets
        yield tokens[index], tokens[index + 1], False


def make_batches(p, tokens):
    """The batches for the kind of model."""
    order = random_batches if p["cell"] == "gpt" else stream_batches
    return order(tokens, p["batch"], p["window"])


# Training -------------------------------------------------------------------------------

def make_optimizer(p, model, bench):
    """Adam for the recurrent models and AdamW for transformers; the fused AdamW for timing."""
    params = list(model.parameters())
    if p["cell"] == "gpt":
        groups = [{"params": [q for q in params if q.dim() >= 2], "weight_decay": 0.1},
                  {"params": [q for q in params if q.dim() < 2], "weight_decay": 0.0}]
        return torch.optim.AdamW(groups, lr=p["lr"], betas=(0.9, 0.99), fused=bench)
    if bench:
        return torch.optim.AdamW(params, lr=p["lr"], weight_decay=0.0, fused=True)
    return torch.optim.Adam(params, lr=p["lr"], betas=(0.9, 0.999))


def learning_rate(p, step):
    """Constant, or nanoGPT's schedule if the preset has a warm-up."""
    if "warmup" not in p:
        return p["lr"]
    if step < p["warmup"]:
        return p["lr"] * (step + 1) / (p["warmup"] + 1)
    ratio = (step - p["warmup"]) / (p["steps"] - p["warmup"])
    return p["min_lr"] + 0.5 * (1 + math.cos(math.pi * ratio)) * (p["lr"] - p["min_lr"])


def clip_gradients(params, threshold):
    """g * (C / N) if N > C; returns whether it clipped.

    Torch's clip_grad_norm_ is not used because it adds an epsilon to N.
    """
    if threshold is None:
        return False
    gradients = [param.grad for param in params]
    norms = [float(torch.linalg.vector_norm(g, dtype=torch.float64)) for g in gradients]
    total = math.hypot(*norms)
    if total > threshold:
        torch._foreach_mul_(gradients, threshold / total)
    return total > threshold


def clip_with_torch(params, threshold):
    """PyTorch's own function; for timing only."""
    if threshold is None:
        return False
    return bool(nn.utils.clip_grad_norm_(params, threshold) > threshold)


def mean_loss(logits, targets):
    """Mean cross-entropy over all positions, in nats."""
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def forward_and_loss(model, inputs, targets, state):
    """The mean loss of a batch, and the state afterwards."""
    logits, state = model(inputs, state)
    return mean_loss(logits, targets), state


def detach(state):
    """Cuts the graph at the end of a window, so that gradients stay within it."""
    if isinstance(state, tuple):
        return tuple(part.detach() for part in state)
    return state if state is None else state.detach()


class Trainer:
    """A model with all state that changes from step to step."""

    def __init__(self, p, tokens, vocabulary, bench=False):
        self.p = p
        self.model = make_model(p, vocabulary)
        self.params = list(self.model.parameters())
        self.optimizer = make_optimizer(p, self.model, bench)
        self.batches = make_batches(p, tokens)
        self.clip = clip_with_torch if bench else clip_gradients
        self.state = None
        self.forward = torch.compile(forward_and_loss) if p.get("compile") else forward_and_loss

    def step(self, number):
        """One timed step: the loss, whether the gradient was clipped, and the seconds."""
        start = time.perf_counter()
        inputs, targets, epoch_start = next(self.batches)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.p, number)
        # Autocast computes products in bf16, and the loss in f32.
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.p.get("bf16", False)):
            before = None if epoch_start else self.state
            loss, state = self.forward(self.model, inputs, targets, before)
        self.state = detach(state)
        self.optimizer.zero_grad()
        loss.backward()
        clipped = self.clip(self.params, self.p["clip"])
        self.optimizer.step()
        return loss.item(), clipped, time.perf_counter() - start


@torch.no_grad()
def evaluate(p, model, tokens):
    """Mean loss over the validation text; every token but the first is predicted once."""
    if len(tokens) < 2:
        sys.exit("the validation text is too short")
    # A transformer sees at most one context, and restarts in every chunk.
    chunk = p["window"] if p["cell"] == "gpt" else EVALUATION_CHUNK
    total, state = 0.0, None
    model.eval()
    for start in range(0, len(tokens) - 1, chunk):
        targets = tokens[start + 1:start + 1 + chunk].unsqueeze(0)
        inputs = tokens[start:start + targets.shape[1]].unsqueeze(0)
        logits, state = model(inputs, state)
        total += float(mean_loss(logits, targets)) * targets.shape[1]
    model.train()
    return total / (len(tokens) - 1)


def train(args, p):
    """Trains, evaluates and returns the result."""
    training, validation, vocabulary = load_text(args.data)
    trainer = Trainer(p, training, vocabulary)
    seconds, clipped = [], 0
    for number in range(p["steps"]):
        loss, was_clipped, elapsed = trainer.step(number)
        seconds.append(elapsed)
        clipped += was_clipped
        done = number + 1
        if done % PROGRESS_EVERY == 0:
            print(f"step {done}: train loss {loss:.4f}, {sum(seconds):.1f} s", file=sys.stderr)
        # The last step is skipped because the evaluation below covers it.
        if args.eval_every and done % args.eval_every == 0 and done < p["steps"]:
            val_loss = evaluate(p, trainer.model, validation)
            print(f"step {done}: val loss {val_loss:.4f}", file=sys.stderr)
    val_loss = evaluate(p, trainer.model, validation)
    # Excludes the time of evaluations.
    return {"preset": args.preset, "steps": p["steps"], "seed": args.seed,
            "val_loss": val_loss, "bits_per_char": val_loss / math.log(2),
            "train_seconds": sum(seconds),
            "ms_per_step_median": 1000 * statistics.median(seconds),
            "clipped_share": clipped / p["steps"]}


def bench_training(args, p):
    """Times training steps on random tokens, which cost as much as real ones."""
    # Slow steps need less warm-up.
    warmup = min(BENCH_WARMUP, args.bench)
    windows = warmup + args.bench
    tokens = torch.randint(args.vocabulary, (p["batch"] * p["window"] * windows + 1,))
    trainer = Trainer(p, tokens, args.vocabulary, bench=True)
    seconds = [trainer.step(number)[2] for number in range(windows)][warmup:]
    times = pytorch_speed.summary([1000 * value for value in seconds])
    per_step = p["batch"] * p["window"]
    return {"ms_per_step": times, "tokens_per_second": 1000 * per_step / times["median"]}


def bench(args, p):
    """Times one part on random tokens or gradients, and reports the process's memory."""
    before = pytorch_speed.peak_rss_bytes()
    if args.part == "train":
        result = bench_training(args, p)
    else:
        model = make_model(p, args.vocabulary)
        if args.part == "clip":
            optimizer = make_optimizer(p, model, bench=True)
            result = pytorch_speed.clip(model, optimizer, p["clip"], args.bench)
        else:
            model = model.bfloat16() if p.get("bf16") else model
            result = pytorch_speed.generate(model, args.bench)
    return {"part": args.part, "preset": args.preset, "bench": args.bench, "seed": args.seed,
            "threads": torch.get_num_threads(), "torch": torch.__version__} | result | {
            "rss_before_model_bytes": before, "peak_rss_bytes": pytorch_speed.peak_rss_bytes()}


# Command line ---------------------------------------------------------------------------

def positive(text):
    """An integer of at least one."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def clip_threshold(text):
    """A threshold, or infinity for `none`; None means not given."""
    return math.inf if text == "none" else float(text)


def parse_arguments():
    parser = argparse.ArgumentParser(description="Trains a preset in PyTorch.")
    parser.add_argument("--preset", required=True, choices=PRESETS)
    parser.add_argument("--data", help="text file in UTF-8")
    parser.add_argument("--steps", type=positive)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=positive, help="default: PyTorch's choice")
    parser.add_argument("--lr", type=float,
                        help="constant or highest learning rate; the lowest one of the "
                             "transformers' schedule stays at 1e-4")
    parser.add_argument("--clip", type=clip_threshold, help="global norm, or none")
    parser.add_argument("--std", type=float,
                        help="standard deviation of a gpt preset's initial weights")
    parser.add_argument("--batch", type=positive)
    parser.add_argument("--window", type=positive,
                        help="tokens per window; the context length of a transformer")
    parser.add_argument("--eval-every", type=positive,
                        help="also print the validation loss every N steps")
    parser.add_argument("--bench", type=positive, metavar="N",
                        help="time N steps on random tokens instead of training")
    parser.add_argument("--part", choices=("train", "clip", "generate"), default="train",
                        help="what --bench times: training steps, clipping of gradients of the "
                             "model's shapes, or generating N tokens")
    parser.add_argument("--vocabulary", type=positive, default=BENCH_VOCABULARY,
                        help="number of tokens of a --bench")
    parser.add_argument("--layers", type=positive)
    parser.add_argument("--hidden", type=positive, help="width of every layer")
    parser.add_argument("--heads", type=positive, help="attention heads of a transformer")
    parser.add_argument("--kv-heads", type=positive,
                        help="key and value heads, each shared by several query heads")
    parser.add_argument("--untied", action="store_true", default=None,
                        help="a separate output layer for a transformer")
    parser.add_argument("--bf16", action="store_true", default=None,
                        help="training: products in bf16 by autocast; generating: the whole model")
    parser.add_argument("--compile", action="store_true", default=None,
                        help="training steps with model and loss in torch.compile")
    args = parser.parse_args()
    if args.bench is None and args.data is None:
        parser.error("--data is needed unless --bench is given")
    return args


def settings(args):
    """The preset with the values given on the command line."""
    names = ("steps", "lr", "clip", "batch", "window", "std", "layers", "hidden", "heads",
             "kv_heads", "untied", "bf16", "compile")
    given = {name: getattr(args, name) for name in names}
    p = PRESETS[args.preset] | {name: v for name, v in given.items() if v is not None}
    if args.bench is not None:
        p["steps"] = max(p["steps"], BENCH_WARMUP + args.bench)
    # Without a threshold the norm need not be computed.
    p["clip"] = None if p["clip"] == math.inf else p["clip"]
    return p


def main():
    args = parse_arguments()
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    p = settings(args)
    result = train(args, p) if args.bench is None else bench(args, p)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
