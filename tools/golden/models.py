"""Usage: python tools/golden/models.py [FOLDER]   (needs torch, numpy, safetensors and
transformers)
Writes the golden safetensors files of the Rust tests; FOLDER defaults to
crates/shears-train/tests/golden.

Parameters, states and gradients are drawn in float32, so that Rust starts from exactly
the same values.  All arithmetic is then done in float64 and only the results are
rounded to float32, so that a difference in a test is an error of the Rust code.
"""

import json
import math
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.numpy import save_file

DEFAULT_FOLDER = Path(__file__).resolve().parents[2] / "crates/shears-train/tests/golden"

RECURRENT = {"family": "recurrent", "vocabulary": 11, "embedding": 7, "hidden": 6,
             "layers": 2, "batch": 3, "window": 5, "tied": False}
TRANSFORMER = {"family": "transformer", "vocabulary": 11, "width": 8, "heads": 2,
               "blocks": 2, "context": 6, "batch": 3, "window": 5, "tied": False}

# Each key and value head is shared by two query heads.
LLAMA = {**TRANSFORMER, "block": "llama", "width": 16, "heads": 4, "kv_heads": 2, "inner": 24,
         "rope_theta": 10000.0}

MODELS = {
    "rnn": {**RECURRENT, "cell": "rnn-tanh", "seed": 1},
    "rnn-relu": {**RECURRENT, "cell": "rnn-relu", "seed": 2},
    "lstm": {**RECURRENT, "cell": "lstm", "seed": 3},
    "gru": {**RECURRENT, "cell": "gru", "seed": 4},
    # A tied output layer needs embedding == hidden.
    "lstm-tied": {**RECURRENT, "cell": "lstm", "embedding": 6, "tied": True, "seed": 5},
    "gpt": {**TRANSFORMER, "seed": 6},
    "gpt-tied": {**TRANSFORMER, "tied": True, "seed": 7},
    "gpt-tanh": {**TRANSFORMER, "mlp": "gelu-tanh", "seed": 8},
    "llama": {**LLAMA, "seed": 9},
    "llama-tied": {**LLAMA, "kv_heads": 4, "inner": 20, "rope_theta": 100.0, "tied": True,
                   "seed": 10},
}
GATES = {"rnn-tanh": 1, "rnn-relu": 1, "lstm": 4, "gru": 3}

# The optimizers whose single step is stored with every model.  The decay of adamw is
# applied only to tensors with two or more dimensions.
MODEL_STEPS = {
    "sgd": {"lr": 0.1},
    "adamw": {"lr": 1e-2, "betas": [0.9, 0.99], "eps": 1e-8, "weight_decay": 0.1},
}

# All settings are given, including defaults, so that the Rust tests read them from the
# metadata instead of repeating PyTorch's defaults.
OPTIMIZERS = {
    "sgd": ("sgd", {"lr": 0.1}),
    "sgd-weight-decay": ("sgd", {"lr": 0.1, "weight_decay": 0.1}),
    "momentum": ("sgd", {"lr": 0.1, "momentum": 0.9}),
    "nesterov": ("sgd", {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
    "rmsprop": ("rmsprop", {"lr": 0.1, "alpha": 0.99, "eps": 1e-8}),
    "adam": ("adam", {"lr": 0.01, "betas": [0.9, 0.999], "eps": 1e-8}),
    "adam-weight-decay": ("adam", {"lr": 0.01, "betas": [0.9, 0.999], "eps": 1e-8,
                                   "weight_decay": 0.1}),
    "adamw": ("adamw", {"lr": 0.01, "betas": [0.9, 0.999], "eps": 1e-8,
                        "weight_decay": 0.01}),
}
OPTIMIZER_CLASSES = {"sgd": torch.optim.SGD, "rmsprop": torch.optim.RMSprop,
                     "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}


def to_float64(array):
    """Converts a float32 array exactly, to a leaf that requires a gradient."""
    return torch.from_numpy(array).double().requires_grad_()


def to_float32(tensor):
    """Rounds a float64 result to the float32 array that is stored."""
    return tensor.detach().numpy().astype(np.float32)


def save(path, tensors, settings):
    """Writes one file; the settings go into the metadata as JSON."""
    # One metadata key only: safetensors does not promise an order for several keys, and
    # running the script again should reproduce the files byte for byte.
    metadata = {"settings": json.dumps(settings)}
    save_file({name: np.ascontiguousarray(array) for name, array in tensors.items()},
              path, metadata=metadata)
    print(f"{path.name}: {path.stat().st_size} bytes, {len(tensors)} tensors")


# Parameters -----------------------------------------------------------------------------

def recurrent_shapes(s):
    """The name and shape of every parameter of a recurrent model."""
    rows = GATES[s["cell"]] * s["hidden"]
    shapes = {"embedding.weight": (s["vocabulary"], s["embedding"])}
    for layer in range(s["layers"]):
        inputs = s["embedding"] if layer == 0 else s["hidden"]
        shapes[f"layers.{layer}.weight_ih"] = (rows, inputs)
        shapes[f"layers.{layer}.weight_hh"] = (rows, s["hidden"])
        shapes[f"layers.{layer}.bias_ih"] = (rows,)
        shapes[f"layers.{layer}.bias_hh"] = (rows,)
    if not s["tied"]:
        shapes["output.weight"] = (s["vocabulary"], s["hidden"])
    shapes["output.bias"] = (s["vocabulary"],)
    return shapes


def transformer_shapes(s):
    """The name and shape of every parameter of a transformer."""
    width = s["width"]
    shapes = {"token_embedding.weight": (s["vocabulary"], width),
              "position_embedding.weight": (s["context"], width)}
    for block in range(s["blocks"]):
        matrices = {"attention.qkv": (3 * width, width), "attention.projection": (width, width),
                    "mlp.expand": (4 * width, width), "mlp.project": (width, 4 * width)}
        for name, shape in matrices.items():
            shapes[f"blocks.{block}.{name}.weight"] = shape
            shapes[f"blocks.{block}.{name}.bias"] = shape[:1]
        for norm in ("norm_1", "norm_2"):
            shapes[f"blocks.{block}.{norm}.weight"] = (width,)
            shapes[f"blocks.{block}.{norm}.bias"] = (width,)
    shapes["final_norm.weight"] = (width,)
    shapes["final_norm.bias"] = (width,)
    if not s["tied"]:
        shapes["output.weight"] = (s["vocabulary"], width)
    return shapes


def llama_shapes(s):
    """The name and shape of every parameter of a Llama."""
    width, inner = s["width"], s["inner"]
    head = width // s["heads"]
    shapes = {"token_embedding.weight": (s["vocabulary"], width)}
    for block in range(s["blocks"]):
        matrices = {"norm_1": (width,),
                    "attention.qkv": (width + 2 * s["kv_heads"] * head, width),
                    "attention.projection": (width, width), "norm_2": (width,),
                    "mlp.expand": (2 * inner, width), "mlp.project": (width, inner)}
        for name, shape in matrices.items():
            shapes[f"blocks.{block}.{name}.weight"] = shape
    shapes["final_norm.weight"] = (width,)
    if not s["tied"]:
        shapes["output.weight"] = (s["vocabulary"], width)
    return shapes


def draw_parameters(shapes, rng):
    """Draws every parameter in float32, large enough that no term of a gradient vanishes."""
    params = {}
    for name, shape in shapes.items():
        values = 0.3 * rng.standard_normal(shape)
        # Scales of norms are not near 1, where a missing multiplication would go unnoticed.
        if "norm" in name and name.endswith("weight"):
            values += 1.0
        params[name] = values.astype(np.float32)
    return params


def draw_tokens(s, rng):
    """Inputs and targets [batch, window]."""
    shape = (s["batch"], s["window"])
    # The last token never occurs, so its embedding has no gradient unless tied.  The first
    # ones occur twice, so that their gradients are summed.
    inputs = np.arange(s["batch"] * s["window"]) % (s["vocabulary"] - 1)
    inputs = rng.permutation(inputs).reshape(shape)
    targets = rng.integers(s["vocabulary"], size=shape)
    return torch.from_numpy(inputs), torch.from_numpy(targets)


# Forward passes -------------------------------------------------------------------------

def make_recurrent(s):
    """The PyTorch module that defines the equations of a cell."""
    arguments = {"input_size": s["embedding"], "hidden_size": s["hidden"],
                 "num_layers": s["layers"], "batch_first": True, "dtype": torch.float64}
    if s["cell"] == "lstm":
        return torch.nn.LSTM(**arguments)
    if s["cell"] == "gru":
        return torch.nn.GRU(**arguments)
    return torch.nn.RNN(nonlinearity=s["cell"].removeprefix("rnn-"), **arguments)


def recurrent_forward(s, leaves, tokens, state):
    """Logits and final state; puts the module's recurrent parameters into `leaves`."""
    module = make_recurrent(s)
    for layer in range(s["layers"]):
        for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            inside = getattr(module, f"{part}_l{layer}")
            inside.data.copy_(leaves[f"layers.{layer}.{part}"].data)
            leaves[f"layers.{layer}.{part}"] = inside
    hidden = stack_state(s, state, "hidden")
    start = (hidden, stack_state(s, state, "cell")) if s["cell"] == "lstm" else hidden
    embedded = F.embedding(tokens, leaves["embedding.weight"])
    top, end = module(embedded, start)
    output = leaves["embedding.weight" if s["tied"] else "output.weight"]
    logits = F.linear(top, output, leaves["output.bias"])
    return logits, unstack_state(s, end)


def state_parts(s):
    """The parts of a layer's state."""
    return ("hidden", "cell") if s["cell"] == "lstm" else ("hidden",)


def draw_state(s, rng):
    """A non-zero initial state, to test the first step of a window."""
    shape = (s["batch"], s["hidden"])
    return {f"layers.{layer}.{part}": (0.3 * rng.standard_normal(shape)).astype(np.float32)
            for layer in range(s["layers"]) for part in state_parts(s)}


def stack_state(s, state, part):
    """The [layers, batch, hidden] tensor PyTorch takes."""
    arrays = [state[f"layers.{layer}.{part}"] for layer in range(s["layers"])]
    return torch.from_numpy(np.stack(arrays)).double()


def unstack_state(s, end):
    """The inverse of `stack_state`, for all parts."""
    end = end if isinstance(end, tuple) else (end,)
    return {f"layers.{layer}.{part}": tensor[layer]
            for part, tensor in zip(state_parts(s), end) for layer in range(s["layers"])}


def attention(s, leaves, prefix, x):
    """Causal self-attention, spelled out to show its conventions."""
    batch, window, width = x.shape
    size = width // s["heads"]
    qkv = F.linear(x, leaves[f"{prefix}.qkv.weight"], leaves[f"{prefix}.qkv.bias"])
    heads = [part.reshape(batch, window, s["heads"], size).transpose(1, 2)
             for part in qkv.split(width, dim=2)]
    query, key, value = heads
    scores = query @ key.transpose(2, 3) / math.sqrt(size)
    future = torch.ones(window, window, dtype=torch.bool).triu(1)
    weights = scores.masked_fill(future, -math.inf).softmax(dim=3)
    mixed = (weights @ value).transpose(1, 2).reshape(batch, window, width)
    return F.linear(mixed, leaves[f"{prefix}.projection.weight"],
                    leaves[f"{prefix}.projection.bias"])


def mlp(s, leaves, prefix, x):
    """The two-layer MLP with the exact (erf) GELU, or its approximation."""
    x = F.linear(x, leaves[f"{prefix}.expand.weight"], leaves[f"{prefix}.expand.bias"])
    approximate = "tanh" if s.get("mlp") == "gelu-tanh" else "none"
    x = F.gelu(x, approximate=approximate)
    return F.linear(x, leaves[f"{prefix}.project.weight"],
                    leaves[f"{prefix}.project.bias"])


def norm(leaves, prefix, x):
    """Layer norm over the last dimension."""
    return F.layer_norm(x, x.shape[-1:], leaves[f"{prefix}.weight"],
                        leaves[f"{prefix}.bias"], eps=1e-5)


def transformer_forward(s, leaves, tokens):
    """Logits of a pre-norm GPT-2."""
    positions = leaves["position_embedding.weight"][:tokens.shape[1]]
    x = F.embedding(tokens, leaves["token_embedding.weight"]) + positions
    for block in range(s["blocks"]):
        prefix = f"blocks.{block}"
        x = x + attention(s, leaves, f"{prefix}.attention", norm(leaves, f"{prefix}.norm_1", x))
        x = x + mlp(s, leaves, f"{prefix}.mlp", norm(leaves, f"{prefix}.norm_2", x))
    output = leaves["token_embedding.weight" if s["tied"] else "output.weight"]
    return F.linear(norm(leaves, "final_norm", x), output)


def rms_norm(leaves, prefix, x):
    """RMSNorm over the last dimension."""
    return x * (x.square().mean(-1, keepdim=True) + 1e-5).rsqrt() * leaves[f"{prefix}.weight"]


def rotated(s, x):
    """Rotary position embedding of [batch, heads, window, size]; element i of one half is rotated
    with element i of the other."""
    half = x.shape[3] // 2
    frequencies = s["rope_theta"] ** (-torch.arange(half, dtype=torch.float64) / half)
    angles = torch.arange(x.shape[2], dtype=torch.float64)[:, None] * frequencies
    left, right = x[..., :half], x[..., half:]
    return torch.cat([left * angles.cos() - right * angles.sin(),
                      right * angles.cos() + left * angles.sin()], dim=3)


def grouped_attention(s, leaves, prefix, x):
    """Causal self-attention with key and value heads shared by several query heads."""
    batch, window, width = x.shape
    size = width // s["heads"]
    keys = s["kv_heads"] * size
    qkv = F.linear(x, leaves[f"{prefix}.qkv.weight"])
    query, key, value = (part.reshape(batch, window, -1, size).transpose(1, 2)
                         for part in qkv.split([width, keys, keys], dim=2))
    query, key = rotated(s, query), rotated(s, key)
    key, value = (part.repeat_interleave(s["heads"] // s["kv_heads"], dim=1)
                  for part in (key, value))
    scores = query @ key.transpose(2, 3) / math.sqrt(size)
    future = torch.ones(window, window, dtype=torch.bool).triu(1)
    weights = scores.masked_fill(future, -math.inf).softmax(dim=3)
    mixed = (weights @ value).transpose(1, 2).reshape(batch, window, width)
    return F.linear(mixed, leaves[f"{prefix}.projection.weight"])


def llama_forward(s, leaves, tokens):
    """Logits of a Llama, checked against transformers."""
    x = F.embedding(tokens, leaves["token_embedding.weight"])
    for block in range(s["blocks"]):
        prefix = f"blocks.{block}"
        normal = rms_norm(leaves, f"{prefix}.norm_1", x)
        x = x + grouped_attention(s, leaves, f"{prefix}.attention", normal)
        normal = rms_norm(leaves, f"{prefix}.norm_2", x)
        gate, up = F.linear(normal, leaves[f"{prefix}.mlp.expand.weight"]).chunk(2, dim=2)
        x = x + F.linear(F.silu(gate) * up, leaves[f"{prefix}.mlp.project.weight"])
    output = leaves["token_embedding.weight" if s["tied"] else "output.weight"]
    logits = F.linear(rms_norm(leaves, "final_norm", x), output)
    other = transformers_logits(s, leaves, tokens)
    # transformers computes norms and angles in float32.
    assert (logits - other).abs().max() < 1e-5 * logits.abs().max()
    return logits


def transformers_logits(s, leaves, tokens):
    """The logits of LlamaForCausalLM with the same parameters."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=s["vocabulary"], hidden_size=s["width"], intermediate_size=s["inner"],
        num_hidden_layers=s["blocks"], num_attention_heads=s["heads"],
        num_key_value_heads=s["kv_heads"], max_position_embeddings=s["context"],
        rms_norm_eps=1e-5, tie_word_embeddings=s["tied"],
        rope_parameters={"rope_type": "default", "rope_theta": s["rope_theta"]})
    keys = s["kv_heads"] * s["width"] // s["heads"]
    tensors = {"model.embed_tokens.weight": leaves["token_embedding.weight"],
               "model.norm.weight": leaves["final_norm.weight"]}
    for block in range(s["blocks"]):
        ours, theirs = f"blocks.{block}", f"model.layers.{block}"
        qkv = leaves[f"{ours}.attention.qkv.weight"].split([s["width"], keys, keys])
        gate_up = leaves[f"{ours}.mlp.expand.weight"].chunk(2)
        names = {"input_layernorm": leaves[f"{ours}.norm_1.weight"],
                 "post_attention_layernorm": leaves[f"{ours}.norm_2.weight"],
                 "self_attn.q_proj": qkv[0], "self_attn.k_proj": qkv[1],
                 "self_attn.v_proj": qkv[2],
                 "self_attn.o_proj": leaves[f"{ours}.attention.projection.weight"],
                 "mlp.gate_proj": gate_up[0], "mlp.up_proj": gate_up[1],
                 "mlp.down_proj": leaves[f"{ours}.mlp.project.weight"]}
        tensors |= {f"{theirs}.{name}.weight": tensor for name, tensor in names.items()}
    output = "token_embedding.weight" if s["tied"] else "output.weight"
    tensors["lm_head.weight"] = leaves[output]
    model = LlamaForCausalLM(config).double()
    with torch.no_grad():
        return torch.func.functional_call(model, tensors, (tokens,)).logits


# One training step ----------------------------------------------------------------------

def gradient_norm(gradients):
    """The global norm of all tensors."""
    return math.sqrt(sum(float(g.square().sum()) for g in gradients))


def clip(gradients, threshold):
    """g * (C / N) if N > C, without the epsilon of torch's clip_grad_norm_."""
    total = gradient_norm(gradients)
    scale = threshold / total if total > threshold else 1.0
    return [g * scale for g in gradients]


def decay_groups(params, weight_decay):
    """Two parameter groups: matrices are decayed, biases and norms are not."""
    return [{"params": [p for p in params if p.dim() >= 2], "weight_decay": weight_decay},
            {"params": [p for p in params if p.dim() < 2], "weight_decay": 0.0}]


def make_optimizer(kind, options, params):
    """A PyTorch optimizer; JSON lists become the tuples it expects."""
    options = {key: tuple(v) if isinstance(v, list) else v for key, v in options.items()}
    return OPTIMIZER_CLASSES[kind](params, **options)


def parameters_after_step(kind, options, leaves, threshold):
    """Clips the gradients, takes one step on copies and returns the copies."""
    gradients = clip([leaf.grad for leaf in leaves.values()], threshold)
    copies = {name: leaf.detach().clone().requires_grad_() for name, leaf in leaves.items()}
    for copy, gradient in zip(copies.values(), gradients):
        copy.grad = gradient
    groups = decay_groups(copies.values(), options.get("weight_decay", 0.0))
    make_optimizer(kind, options, groups).step()
    return copies


def vanishing_gradients(s):
    """The [start, end) ranges whose gradient is zero in exact arithmetic.

    Softmax ignores a constant added to all scores of a row, so the bias of the keys has no
    effect.  Its computed gradient is rounding noise, which Adam normalises to a visible step;
    the tests must not compare that step.
    """
    if s["family"] == "recurrent" or s.get("block") == "llama":
        return {}
    return {f"blocks.{block}.attention.qkv.bias": [s["width"], 2 * s["width"]]
            for block in range(s["blocks"])}


def write_model(folder, name, s):
    """Computes and writes the file of one model."""
    rng = np.random.default_rng(s["seed"])
    recurrent = s["family"] == "recurrent"
    llama = s.get("block") == "llama"
    shapes = recurrent_shapes if recurrent else llama_shapes if llama else transformer_shapes
    params = draw_parameters(shapes(s), rng)
    tokens, targets = draw_tokens(s, rng)
    state_in = draw_state(s, rng) if recurrent else {}

    leaves = {key: to_float64(array) for key, array in params.items()}
    if recurrent:
        logits, state_out = recurrent_forward(s, leaves, tokens, state_in)
    else:
        forward = llama_forward if llama else transformer_forward
        logits, state_out = forward(s, leaves, tokens), {}
    loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
    loss.backward()

    total = gradient_norm([leaf.grad for leaf in leaves.values()])
    # Half the norm ensures that clipping acts.  Rounded to float32, it is exact for a program
    # that keeps its settings in float32.
    threshold = float(np.float32(total / 2))

    tensors = {"tokens": tokens.numpy(), "targets": targets.numpy(),
               "logits": to_float32(logits), "loss": to_float32(loss.reshape(1))}
    tensors |= {f"param/{key}": array for key, array in params.items()}
    tensors |= {f"grad/{key}": to_float32(leaf.grad) for key, leaf in leaves.items()}
    tensors |= {f"state_in/{key}": array for key, array in state_in.items()}
    tensors |= {f"state_out/{key}": to_float32(value) for key, value in state_out.items()}
    for kind, options in MODEL_STEPS.items():
        after = parameters_after_step(kind, options, leaves, threshold)
        tensors |= {f"step/{kind}/{key}": to_float32(value) for key, value in after.items()}

    settings = {"model": name, **s, "gradient_norm": total, "clip_threshold": threshold,
                "optimizers": MODEL_STEPS, "vanishing_gradients": vanishing_gradients(s)}
    save(folder / f"{name}.safetensors", tensors, settings)


# Optimizers and clipping on their own ---------------------------------------------------

def write_optimizers(folder):
    """Five steps of every optimizer on one vector."""
    rng = np.random.default_rng(100)
    start = rng.standard_normal(17).astype(np.float32)
    gradients = rng.standard_normal((5, 17)).astype(np.float32)
    # In the last columns, gradients as small as epsilon show where epsilon is added, large
    # ones show a missing normalisation, and a gradient that is always zero must not give 0/0.
    gradients[:, 13] *= np.float32(1e-8)
    gradients[:, 14] *= np.float32(1e-4)
    gradients[:, 15] *= np.float32(1e2)
    gradients[:, 16] = 0.0

    tensors = {}
    for name, (kind, options) in OPTIMIZERS.items():
        tensors[f"{name}/param"] = start
        tensors[f"{name}/grads"] = gradients
        tensors[f"{name}/steps"] = run_optimizer(kind, options, start, gradients)
    settings = {name: {"kind": kind, **options} for name, (kind, options) in OPTIMIZERS.items()}
    save(folder / "optimizers.safetensors", tensors, settings)


def run_optimizer(kind, options, start, gradients):
    """The parameter after each step, as one array."""
    param = to_float64(start)
    optimizer = make_optimizer(kind, options, [param])
    after = []
    for gradient in gradients:
        param.grad = torch.from_numpy(gradient).double()
        optimizer.step()
        after.append(to_float32(param))
    return np.stack(after)


def write_clipping(folder):
    """Gradients of two tensors before and after clipping, including corner cases."""
    rng = np.random.default_rng(200)
    first, second = rng.standard_normal((4, 3)), rng.standard_normal(5)
    corner = np.array([3.0, 0.0, 0.0, 0.0, 4.0])
    cases = {
        "above": (first, second, 1.0),
        "below": (first, second, 100.0),
        # The norm is exactly 5; the rule acts only above the threshold.
        "equal": (np.zeros((4, 3)), corner, 5.0),
        "zero": (np.zeros((4, 3)), np.zeros(5), 1.0),
        # The squares of these values overflow float32.
        "huge": (1e25 * first, 1e25 * second, 1.0),
        # The squares of these values underflow float32.
        "tiny": (1e-25 * first, 1e-25 * second, 1e-25),
    }
    tensors, settings = {}, {}
    for name, (a, b, threshold) in cases.items():
        before = [a.astype(np.float32), b.astype(np.float32)]
        gradients = [torch.from_numpy(array).double() for array in before]
        for key, array, clipped in zip("ab", before, clip(gradients, threshold)):
            tensors[f"{name}/before/{key}"] = array
            tensors[f"{name}/after/{key}"] = to_float32(clipped)
        settings[name] = {"clip_threshold": threshold, "gradient_norm": gradient_norm(gradients)}
    save(folder / "clipping.safetensors", tensors, settings)


def main():
    if len(sys.argv) > 2 or sys.argv[1:] in (["-h"], ["--help"]):
        sys.exit(__doc__)
    folder = Path(sys.argv[1]) if len(sys.argv) == 2 else DEFAULT_FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    for name, settings in MODELS.items():
        write_model(folder, name, settings)
    write_optimizers(folder)
    write_clipping(folder)


if __name__ == "__main__":
    main()
