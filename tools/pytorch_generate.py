"""Text generation in PyTorch in several forms, of which pytorch_speed.py uses the fastest."""

import math
import sys
import time

import torch
import torch.nn as nn
import torch.nn.functional as F


def rotate(x, angles):
    """Applies the rotary embedding to heads [.., window, size]; halves of a head are pairs."""
    cosines, sines = angles.to(x.dtype)
    left, right = x.chunk(2, -1)
    return torch.cat([left * cosines - right * sines, right * cosines + left * sines], -1)


class Step(nn.Module):
    """The model as trained; the state is that of its `forward`."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def start(self):
        return [self.model.cache() if hasattr(self.model, "cache") else None]

    def forward(self, token, state):
        logits, state = self.model(token, state)
        return logits[:, -1].softmax(-1), state


class LstmStep(nn.Module):
    """One token through an LSTM without the overhead of nn.LSTM, which is made for sequences.

    Both matrices of a layer are joined once, so that a step has one product for each layer.
    """

    def __init__(self, model):
        super().__init__()
        self.embedding, self.output = model.embedding, model.output
        self.layers = nn.ModuleList(map(self.joined, model.layers.all_weights))

    @staticmethod
    def joined(weights):
        of_input, of_hidden, bias, other_bias = weights
        matrix = torch.cat([of_input, of_hidden], 1)
        layer = nn.Linear(matrix.shape[1], matrix.shape[0])
        layer.weight, layer.bias = nn.Parameter(matrix), nn.Parameter(bias + other_bias)
        return layer

    def start(self):
        return [torch.zeros(1, layer.out_features // 4, dtype=layer.weight.dtype)
                for layer in self.layers for _ in "hc"]

    def forward(self, token, *state):
        x, after = self.embedding(token[0]), []
        for layer, hidden, cell in zip(self.layers, state[::2], state[1::2]):
            i, f, g, o = layer(torch.cat([x, hidden], 1)).chunk(4, 1)
            cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
            x = o.sigmoid() * cell.tanh()
            after += x, cell
        return self.output(x).softmax(-1), *after


class TransformerStep(nn.Module):
    """One token through a Transformer with a fixed-size cache, so that one graph fits all steps."""

    def __init__(self, model):
        super().__init__()
        self.model = model
        size = model.width // model.heads
        shape = 2, len(model.blocks), 1, model.kv_heads, model.context, size
        keys, values = torch.zeros(shape, dtype=model.token_embedding.weight.dtype)
        self.register_buffer("keys", keys)
        self.register_buffer("values", values)
        self.register_buffer("places", torch.arange(model.context))

    def start(self):
        return [torch.zeros(1, dtype=torch.long)]

    def attend(self, attention, index, x, position):
        """As the model's attention, with what lies ahead in the cache masked.

        Sums of products are faster here than `scaled_dot_product_attention` with a mask.
        """
        query, key, value = attention.parts(x.view(1, 1, -1))
        if self.model.angles is not None:
            angles = self.model.angles[:, position]
            query, key = rotate(query, angles), rotate(key, angles)
        keys, values = self.keys[index], self.values[index]
        keys.index_copy_(2, position, key)
        values.index_copy_(2, position, value)
        shared = attention.heads // attention.kv_heads
        if shared > 1:
            keys, values = (of.repeat_interleave(shared, 1) for of in (keys, values))
        scores = (query * keys).sum(-1) / query.shape[-1] ** 0.5
        shares = scores.masked_fill(self.places > position, -math.inf).softmax(-1)
        mixed = (shares.unsqueeze(-1) * values).sum(2)
        return attention.projection(mixed.view(x.shape))

    def forward(self, token, position):
        model = self.model
        x = model.token_embedding(token[0])
        if model.position_embedding is not None:
            x = x + F.embedding(position, model.position_embedding.weight)
        for index, block in enumerate(model.blocks):
            x = x + self.attend(block.attention, index, block.norm_1(x), position)
            x = x + block.mlp(block.norm_2(x))
        return model.output(model.final_norm(x)).softmax(-1), position + 1


def traced(step):
    """A graph of TorchScript, with the weights packed for its products."""
    example = torch.zeros(1, 1, dtype=torch.long), *step.start()
    return torch.jit.optimize_for_inference(torch.jit.trace(step, example))


def compiled(step):
    """Code of TorchInductor, with the weights packed for its products."""
    return torch.compile(step, dynamic=False, options={"freezing": True})


def forms(model):
    """The forms to try: name, constructor of the step, and initial state."""
    eager = Step(model)
    yield "eager", lambda: eager, eager.start
    if isinstance(getattr(model, "layers", None), nn.LSTM):
        single = LstmStep(model)
        yield "eager, joined weights", lambda: single, single.start
    elif hasattr(model, "blocks"):
        single = TransformerStep(model)
    else:
        return
    single.eval()
    yield "traced", lambda: traced(single), single.start
    yield "compiled", lambda: compiled(single), single.start


def rate(step, state, length):
    """Tokens per second of one text at temperature 1."""
    token = torch.zeros(1, 1, dtype=torch.long)
    started = time.perf_counter()
    for _ in range(length):
        probabilities, *state = step(token, *state)
        token = torch.multinomial(probabilities.float(), 1)
        # Includes reading each token from torch.
        token.item()
    return length / (time.perf_counter() - started)


def fastest(model, length):
    """The fastest form in two passes after a warm-up: its name, step and initial state."""
    best = 0.0, None
    for name, make, start in forms(model):
        try:
            step = make()
            rate(step, start(), length)
            speed = max(rate(step, start(), length) for _ in range(2))
        # A compiler can be missing or fail in many ways.
        except Exception as error:
            print(f"{name}: {str(error).strip().splitlines()[:1]}", file=sys.stderr)
            continue
        print(f"{name}: {speed:.0f} tokens per second", file=sys.stderr)
        best = max(best, (speed, (name, step, start)), key=lambda candidate: candidate[0])
    if best[1] is None:
        sys.exit("no form of generating works")
    return best[1]
