"""Usage: python tools/golden/clipping.py [all|torch|tensorflow|keras|optax|published|adam]
Writes golden values of gradient clipping as JSON, each file from the framework that defines it:
torch.json, tensorflow.json, keras.json, optax.json and published.json into
crates/gradclip/tests/golden, and adam_clipping.json into crates/shears-train/tests/golden.
Needs numpy, and torch, tensorflow, keras or optax for their parts; a part whose framework is
missing is left out.

Every case is a policy as text and a sequence of steps with gradients in and gradients out.
Gradients are exact values of their storage type.  Expected values are the framework's own in
float32 and float64; those of published.json are computed in float64 and rounded once.
A name with an upper-case prefix (T1, T5, TF, OPTAX ...) replays that test of the framework.
"""

import importlib
import itertools
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

# Writes no compiled modules beside the sources.
sys.dont_write_bytecode = True
import published
from published import stored

ROOT = Path(__file__).resolve().parents[2]
CLIP_FOLDER = ROOT / "crates/gradclip/tests/golden"
ADAM_FOLDER = ROOT / "crates/shears-train/tests/golden"

# Largest relative differences that the arithmetic of a source explains: float32 norms of some
# hundred elements, and PyTorch's 1e-6 next to norms of 5 and more.
SINGLE = 1e-6
# The same in float64, with norms so large that PyTorch's 1e-6 is negligible.
DOUBLE = 1e-12
# Computed in float64 and rounded once to float32: one unit in the last place.
ROUNDED = 2e-7
EXACT = 0.0

ORDERS = [0.5, 1.5, 2.0, 4.0, math.inf]


# Cases and files ------------------------------------------------------------------------

def case(name, policy, tolerance, *steps):
    return {"name": name, "policy": policy, "relative_tolerance": tolerance,
            "steps": list(steps)}


def step(gradients, clipped, dtype="f32", parameters=None, norm=None, threshold=None, action=None):
    """One step.  None marks what the source does not give; `action` is then derived from the
    clipped gradients.  An `action` of False is omitted."""
    tensors = []
    for name, gradient in gradients.items():
        gradient = np.asarray(gradient, np.float64)
        tensor = {"name": name, "shape": list(gradient.shape), "dtype": dtype,
                  "gradient": numbers(gradient, dtype)}
        if parameters is not None:
            tensor["parameter"] = numbers(parameters[name], dtype)
        tensors.append(tensor)
    if action is None:
        kept = all(np.array_equal(gradients[name], clipped[name]) for name in gradients)
        action = "keep" if kept else "clip"
    expected = {"norm_before": number(norm), "threshold": number(threshold),
                "tensors": {name: numbers(values) for name, values in clipped.items()},
                "action": action or None}
    return {"loss": None, "tensors": tensors,
            "expected": {key: value for key, value in expected.items() if value is not None}}


def number(value):
    """A JSON number that round-trips, or the name of a value that JSON cannot represent."""
    if value is None or math.isfinite(value):
        return None if value is None else float(value)
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def numbers(array, dtype=None):
    array = np.ravel(np.asarray(array, np.float64))
    if dtype is not None:
        assert np.array_equal(array, stored(array, dtype)), f"not values of {dtype}"
    return [number(value) for value in array.tolist()]


def write_clipping(name, source, cases):
    """Writes one line per step, for readable diffs."""
    names = [case["name"] for case in cases]
    assert len(set(names)) == len(names), "names must be unique"
    for entry in cases:
        check_against_published(entry)
    compact = {"separators": (",", ":"), "allow_nan": False}
    blocks = []
    for entry in cases:
        head = {key: value for key, value in entry.items() if key != "steps"}
        steps = ",\n".join(json.dumps(step, **compact) for step in entry["steps"])
        blocks.append(f'{json.dumps(head, **compact)[:-1]},"steps":[\n{steps}\n]}}')
    text = f'{{\n"source": {json.dumps(source)},\n"cases": [\n' + ",\n".join(blocks) + "\n]\n}\n"
    write(CLIP_FOLDER / f"{name}.json", text, len(cases))


def write(path, text, cases):
    json.loads(text)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    print(f"{path.name}: {len(text)} bytes, {cases} cases")


def parse(policy):
    """The chain of a policy as functions from gradients, parameters and step to gradients, for
    stateless rules."""
    def rule(name, threshold, options):
        first, _, rest = threshold.partition("..")
        last, _, steps = rest.partition("@")
        order = float(options.get("p", 2))

        def at(index):
            share = min(index / int(steps), 1) if steps else 0
            return float(first) + share * (float(last or first) - float(first))

        return {
            "value": lambda g, w, i: published.clip_value(g, at(i)),
            "norm": lambda g, w, i: published.clip_norm(g, at(i), order),
            "global-norm": lambda g, w, i: published.clip_global_norm(g, at(i), order),
            "group-norm": lambda g, w, i: published.clip_group_norm(g, at(i)),
            "block-rms": lambda g, w, i: published.clip_block_rms(g, at(i)),
            "normalize": lambda g, w, i: published.normalize(g, at(i)),
            "agc": lambda g, w, i: published.adaptive_clip(
                g, w, at(i), float(options.get("eps", 1e-3)), options.get("unit", "last")),
        }[name]

    rules = []
    for part in policy.split("+"):
        name, _, rest = part.partition(":")
        threshold, *options = rest.split(",")
        rules.append(rule(name, threshold, dict(option.split("=") for option in options)))
    return rules


def check_against_published(entry):
    """Compares every framework with the formulas, parsed from the policy's text."""
    if entry["policy"].partition(":")[0] in ("autoclip", "zclip", "adagc"):
        return
    tolerance = entry["relative_tolerance"]
    for index, one in enumerate(entry["steps"]):
        def read(key):
            return {t["name"]: np.reshape(np.array(t[key], np.float64), t["shape"])
                    for t in one["tensors"] if key in t}
        gradients, expected = read("gradient"), one["expected"]
        order = entry["policy"].rpartition("p=")[2] if ",p=" in entry["policy"] else 2
        norm = published.global_norm(gradients, float(order))
        if not math.isfinite(norm):
            continue
        assert math.isclose(expected.get("norm_before", norm), norm, rel_tol=tolerance), entry
        clipped = gradients
        for rule in parse(entry["policy"]):
            clipped = rule(clipped, read("parameter"), index)
        clipped = {t["name"]: np.ravel(stored(clipped[t["name"]], t["dtype"]))
                   for t in one["tensors"]}
        check_close(entry["name"], clipped, expected["tensors"], tolerance)


# Gradients ------------------------------------------------------------------------------

SHAPES = {"embedding.weight": (4, 3), "layers.0.weight": (3, 5), "layers.0.bias": (3,),
          "output.weight": (2, 2, 3), "output.bias": (1,)}


def random_tensors(seed, scale=1.0, dtype="f32", shapes=SHAPES):
    rng = np.random.default_rng(seed)
    # Tensors of different sizes reveal whether each is clipped by its own norm.
    return {name: stored(scale * 2.0 ** index * rng.standard_normal(shape), dtype)
            for index, (name, shape) in enumerate(shapes.items())}


def arrays(**tensors):
    return {name: np.asarray(values, np.float64) for name, values in tensors.items()}


def matrix_and_vector(matrix, vector):
    """The two tensors of Linear(10, 10), on which PyTorch tests."""
    return {"weight": stored(np.reshape(matrix, (10, 10)), "f32"), "bias": stored(vector, "f32")}


def text(order):
    """A number as written in a policy."""
    return f"{order:g}" if float(f"{order:g}") == order else repr(float(order))


def with_order(policy, order):
    return policy if order == 2.0 else f"{policy},p={text(order)}"


def check_close(what, ours, theirs, tolerance):
    """Compares two sources for the same gradients."""
    for name, values in theirs.items():
        values = np.asarray(values, np.float64)
        difference = np.abs(ours[name] - values)
        limit = tolerance * np.abs(values)
        assert np.all(difference <= limit), f"{what}, {name}: {np.max(difference)}"


# PyTorch --------------------------------------------------------------------------------

def torch_cases():
    import torch
    types = {"f32": torch.float32, "f64": torch.float64, "f16": torch.float16,
             "bf16": torch.bfloat16}
    utils = torch.nn.utils

    def leaves(gradients, dtype):
        made = {}
        for name, gradient in gradients.items():
            leaf = torch.zeros(gradient.shape, dtype=types[dtype], requires_grad=True)
            leaf.grad = torch.from_numpy(gradient.copy()).to(types[dtype])
            made[name] = leaf
        return made

    def results(made):
        return {name: leaf.grad.double().numpy() for name, leaf in made.items()}

    def global_norm(threshold, order=2.0):
        def clip(made):
            # The split form, which is what clip_grad_norm_ calls.
            norm = utils.get_total_norm([leaf.grad for leaf in made.values()], order)
            utils.clip_grads_with_norm_(made.values(), threshold, norm)
        return clip

    def each_norm(threshold, order=2.0):
        def clip(made):
            for leaf in made.values():
                utils.clip_grad_norm_([leaf], threshold, order)
        return clip

    def value(threshold):
        return lambda made: utils.clip_grad_value_(made.values(), threshold)

    def run_value(gradients, threshold, dtype="f32"):
        made = leaves(gradients, dtype)
        value(threshold)(made)
        return step(gradients, results(made), dtype, threshold=threshold)

    def run(gradients, *clips, dtype="f32", order=2.0, threshold=None, action=None):
        made = leaves(gradients, dtype)
        norm = utils.get_total_norm([leaf.grad for leaf in made.values()], order).item()
        exact = published.global_norm(gradients, order)
        assert math.isclose(norm, exact, rel_tol=SINGLE / 2), (norm, exact)
        for clip in clips:
            clip(made)
        return step(gradients, results(made), dtype, norm=norm, threshold=threshold,
                    action=action)

    # T1, T2, T3 and T6: ClipGradNorm of test/cpp/api/nn_utils.cpp and its Python twins.
    big = matrix_and_vector(np.arange(1.0, 101.0), np.ones(10) / 1000)
    small = matrix_and_vector(np.random.default_rng(300).random(100) / 10000, np.ones(10) / 500)
    for order in ORDERS:
        suffix = f"p_{text(order).replace('.', '_')}"
        policy = with_order("global-norm:2", order)
        options = {"order": order, "threshold": 2.0}
        yield case(f"T1_{suffix}", policy, SINGLE, run(big, global_norm(2, order), **options))
        unchanged = run(small, global_norm(2, order), **options)
        assert unchanged["expected"]["action"] == "keep"
        yield case(f"T2_{suffix}", policy, SINGLE, unchanged)
    single = {"weight": big["weight"]}
    for name, clip in [("norm", each_norm), ("global-norm", global_norm)]:
        yield case(f"T3_single_tensor_{name.replace('-', '_')}", f"{name}:2", SINGLE,
                   run(single, clip(2), threshold=2.0))

    # T4 without the non-finite values.  2e200 overflows in PyTorch for orders 2 and 3.5;
    # published.json has it.
    for size, order in [*itertools.product([2e22, -2e22], [0.1, 1.0, 2.0, 3.5, math.inf]),
                        *itertools.product([2e200, -2e200], [0.1, 1.0, math.inf])]:
        sign = "minus_" if size < 0 else ""
        name = f"T4_{sign}{abs(size):g}_p_{text(order)}".replace("+", "").replace(".", "_")
        yield case(name, with_order("global-norm:1", order), DOUBLE,
                   run(arrays(w=np.full(10, size)), global_norm(1, order), dtype="f64",
                       order=order, threshold=1.0))

    # T5: ClipGradValue.
    wide = matrix_and_vector(np.arange(-50.0, 50.0) / 5, np.ones(10) * 2)
    yield case("T5_value", "value:2.5", EXACT, run_value(wide, 2.5))
    yield case("T5_value_single_tensor", "value:2.5", EXACT,
               run_value({"weight": wide["weight"]}, 2.5))

    # T6, issue #46849.  In float32 PyTorch finds an infinite norm for 1e20 and writes zeros,
    # so its float64 result is used.
    yield case("T6_ones", "global-norm:1", SINGLE,
               run(arrays(w=np.ones(100)), global_norm(1), threshold=1.0))
    huge = arrays(w=stored(np.full(100, 1e20), "f32"))
    made = leaves(huge, "f64")
    norm = utils.clip_grad_norm_(made.values(), 1.0).item()
    yield case("T6_1e20", "global-norm:1", SINGLE,
               step(huge, results(made), norm=norm, threshold=1.0))

    # tch tests/nn_tests.rs gradient_clip_test; tch is PyTorch's C++ library.
    three = arrays(a=[2, 2], b=[8], c=[-8, -8])
    yield case("TCH_value", "value:4", EXACT, run_value(three, 4.0))
    yield case("TCH_norm", "global-norm:1", SINGLE, run(three, global_norm(1), threshold=1.0))

    # metaseq cpu_tests/test_utils.py: the second call finds a norm of 1, where rounding decides
    # whether it clips.
    counting = arrays(**{name: np.arange(1, 6) for name in "abc"})
    made = leaves(counting, "f32")
    first = run(counting, global_norm(1), threshold=1.0)
    global_norm(1)(made)
    yield case("METASEQ_l2_twice", "global-norm:1", SINGLE, first,
               run(results(made), global_norm(1), threshold=1.0, action=False))
    yield case("METASEQ_inf", "global-norm:1,p=inf", SINGLE,
               run(counting, global_norm(1, math.inf), order=math.inf, threshold=1.0))
    yield case("METASEQ_no_gradient", "global-norm:1", EXACT,
               run(arrays(w=np.zeros(5)), global_norm(1), threshold=1.0))

    # Random tensors of several shapes, as apex does.
    for dtype, tolerance, scale in [("f32", SINGLE, 10.0), ("f64", DOUBLE, 1e7)]:
        for seed, order in enumerate([1.0, 2.0, 3.0, math.inf]):
            gradients = random_tensors(310 + seed, scale, dtype)
            options = {"dtype": dtype, "order": order}
            for name, clip in [("global-norm", global_norm), ("norm", each_norm)]:
                threshold = 0.54321 * scale
                yield case(f"random_{dtype}_{name.replace('-', '_')}_p_{text(order)}",
                           with_order(f"{name}:{threshold!r}", order), tolerance,
                           run(gradients, clip(threshold, order), threshold=threshold, **options))
    for dtype in ["f16", "bf16", "f32", "f64"]:
        yield case(f"random_{dtype}_value", "value:1.5", EXACT,
                   run_value(random_tensors(320, dtype=dtype), 1.5, dtype))

    # Chains are applied from left to right.
    gradients = random_tensors(330, 10.0)
    for policy, clips in [
        ("value:2.5+global-norm:1", [value(2.5), global_norm(1)]),
        ("global-norm:20+value:2.5", [global_norm(20), value(2.5)]),
        ("norm:5+global-norm:6", [each_norm(5), global_norm(6)]),
        ("value:50+norm:20+global-norm:10", [value(50), each_norm(20), global_norm(10)]),
    ]:
        name = policy.replace(":", "_").replace("+", "_then_").replace("-", "_").replace(".", "_")
        yield case(f"chain_{name}", policy, SINGLE, run(gradients, *clips))


def write_torch():
    import torch
    torch.set_num_threads(1)
    cases = list(torch_cases())
    write_clipping("torch", f"PyTorch {torch.__version__.split('+')[0]} torch.nn.utils", cases)


# TensorFlow -----------------------------------------------------------------------------

def tensorflow_cases():
    import tensorflow as tf
    types = {"f32": tf.float32, "f64": tf.float64, "f16": tf.float16, "bf16": tf.bfloat16}

    def constants(gradients, dtype):
        return [tf.cast(tf.constant(gradient, tf.float64), types[dtype])
                for gradient in gradients.values()]

    def results(gradients, tensors):
        return {name: tf.cast(tensor, tf.float64).numpy()
                for name, tensor in zip(gradients, tensors)}

    def value(gradients, threshold, dtype="f32"):
        tensors = [tf.clip_by_value(tensor, -threshold, threshold)
                   for tensor in constants(gradients, dtype)]
        return step(gradients, results(gradients, tensors), dtype, threshold=threshold)

    def each_norm(gradients, threshold, dtype="f32"):
        tensors = [tf.clip_by_norm(tensor, threshold) for tensor in constants(gradients, dtype)]
        return step(gradients, results(gradients, tensors), dtype, threshold=threshold)

    def global_norm(gradients, threshold, dtype="f32"):
        tensors, norm = tf.clip_by_global_norm(constants(gradients, dtype), threshold)
        return step(gradients, results(gradients, tensors), dtype, norm=float(norm),
                    threshold=threshold)

    # clip_ops_test.py without clip_by_average_norm, norms over some axes only, asymmetric
    # bounds and non-finite values.
    x = arrays(x=[[-5, 2, 3], [4, 5, 6]])
    yield case("TF_value", "value:4.4", EXACT, value(x, 4.4))
    counting = arrays(x=[[1, 2, 3], [4, 5, 6]])
    for dtype in ["f16", "f32", "f64", "bf16"]:
        yield case(f"TF_value_{dtype}", "value:4", EXACT, value(counting, 4.0, dtype))
    slices = arrays(x=[[[-3, 0, 0], [4, 0, 0]], [[0, 2, 0], [0, 0, -1]]])
    yield case("TF_value_slices", "value:2", EXACT, value(slices, 2.0))
    yield case("TF_value_empty", "value:2", EXACT, value({"x": np.zeros((7, 0))}, 2.0))
    x = arrays(x=[[-3, 0, 0], [4, 0, 0]])
    yield case("TF_norm_clipped", "norm:4", SINGLE, each_norm(x, 4.0))
    yield case("TF_norm_not_clipped", "norm:6", EXACT, each_norm(x, 6.0))
    yield case("TF_norm_zero", "norm:6", EXACT, each_norm(arrays(x=np.zeros((2, 3))), 6.0))
    pair = arrays(x0=[[-2, 0, 0], [4, 0, 0]], x1=[1, -2])
    yield case("TF_global_norm_clipped", "global-norm:4", SINGLE, global_norm(pair, 4.0))
    yield case("TF_global_norm_not_clipped", "global-norm:6", EXACT, global_norm(pair, 6.0))
    zeros = {name: np.zeros_like(values) for name, values in pair.items()}
    yield case("TF_global_norm_zero", "global-norm:6", EXACT, global_norm(zeros, 6.0))

    for dtype, tolerance in [("f32", SINGLE), ("f64", DOUBLE)]:
        gradients = random_tensors(400, dtype=dtype)
        for name, clip in [("global-norm", global_norm), ("norm", each_norm)]:
            yield case(f"random_{dtype}_{name.replace('-', '_')}", f"{name}:0.75", tolerance,
                       clip(gradients, 0.75, dtype))
        yield case(f"random_{dtype}_value", "value:0.75", EXACT, value(gradients, 0.75, dtype))


def write_tensorflow():
    import tensorflow as tf
    write_clipping("tensorflow", f"TensorFlow {tf.__version__} tf.clip_by_*",
                   list(tensorflow_cases()))


# Keras ----------------------------------------------------------------------------------

def keras_cases():
    import keras

    def run(option, threshold, gradients, action="clip"):
        optimizer = keras.optimizers.SGD(learning_rate=1.0, **{option: threshold})
        variables = [keras.Variable(np.zeros(gradient.shape, np.float32))
                     for gradient in gradients.values()]
        optimizer.build(variables)
        optimizer.apply([keras.ops.convert_to_tensor(gradient.astype(np.float32))
                         for gradient in gradients.values()])
        # From zero, a step at rate 1 ends at minus the applied gradient.
        clipped = {name: -keras.ops.convert_to_numpy(variable.value).astype(np.float64)
                   for name, variable in zip(gradients, variables)}
        return step(gradients, clipped, threshold=threshold, action=action)

    # optimizer_test.py.
    both = arrays(w=[100, 100])
    yield case("KERAS_clipnorm", "norm:1", SINGLE, run("clipnorm", 1.0, both))
    yield case("KERAS_clipvalue", "value:1", EXACT, run("clipvalue", 1.0, both))
    yield case("KERAS_global_clipnorm", "global-norm:1", SINGLE,
               run("global_clipnorm", 1.0, arrays(w=[50, 100])))
    gradients = random_tensors(500)
    for option, policy in [("clipnorm", "norm"), ("clipvalue", "value"),
                           ("global_clipnorm", "global-norm")]:
        tolerance = EXACT if policy == "value" else SINGLE
        yield case(f"random_{option}", f"{policy}:0.75", tolerance, run(option, 0.75, gradients))
        yield case(f"random_{option}_not_clipped", f"{policy}:1024", SINGLE,
                   run(option, 1024.0, gradients, "keep"))


def write_keras():
    import keras
    write_clipping("keras", f"Keras {keras.__version__} optimizers ({keras.backend.backend()})",
                   list(keras_cases()))


# optax ----------------------------------------------------------------------------------

def optax_cases():
    import jax
    jax.config.update("jax_enable_x64", True)
    import jax.numpy as jnp
    import optax
    types = {"f32": jnp.float32, "f64": jnp.float64}

    def on_device(tensors, dtype):
        return {name: jnp.asarray(values, types[dtype]) for name, values in tensors.items()}

    def run(rule, sequence, dtype="f32", parameters=None, threshold=None, with_norm=True):
        """One step per set of gradients; the threshold may depend on the step."""
        weights = None if parameters is None else on_device(parameters, dtype)
        state = rule.init(on_device(sequence[0], dtype))
        steps = []
        for index, gradients in enumerate(sequence):
            updates = on_device(gradients, dtype)
            norm = float(optax.tree.norm(updates)) if with_norm else None
            clipped, state = rule.update(updates, state, weights)
            assert all(values.dtype == types[dtype] for values in clipped.values())
            clipped = {name: np.asarray(clipped[name], np.float64) for name in gradients}
            steps.append(step(gradients, clipped, dtype, parameters, norm=norm,
                              threshold=threshold(index) if callable(threshold) else threshold))
        return steps

    # _clipping_test.py.
    updates = arrays(a=[500, 5], b=[300, 3])
    weights = arrays(a=[1, 2], b=[3, 4])
    yield case("OPTAX_clip_1e6", "value:1000000", EXACT,
               *run(optax.clip(1e6), [updates], threshold=1e6, with_norm=False))
    yield case("OPTAX_clip_1", "value:1", EXACT,
               *run(optax.clip(1.0), [updates], threshold=1.0, with_norm=False))
    for divisor in [1, 2, 3, 7, 10, 25, 50]:
        threshold = 1 / divisor
        yield case(f"OPTAX_block_rms_1_over_{divisor}", f"block-rms:{threshold!r}", SINGLE,
                   *run(optax.clip_by_block_rms(threshold), [updates]))
        yield case(f"OPTAX_global_norm_1_over_{divisor}", f"global-norm:{threshold!r}", SINGLE,
                   *run(optax.clip_by_global_norm(threshold), [updates], threshold=threshold))
        yield case(f"OPTAX_agc_1_over_{divisor}", f"agc:{threshold!r}", SINGLE,
                   *run(optax.adaptive_grad_clip(threshold), [updates], parameters=weights))
    linear, ones = arrays(w=np.full((5, 6), 3)), arrays(w=np.ones((5, 6)))
    yield case("OPTAX_agc_linear", "agc:0.5", SINGLE,
               *run(optax.adaptive_grad_clip(0.5), [linear], parameters=ones))
    square, ones = arrays(w=[[1, 2], [3, 4]]), arrays(w=np.ones((2, 2)))
    yield case("OPTAX_agc_columns", "agc:1", SINGLE,
               *run(optax.adaptive_grad_clip(1.0), [square], parameters=ones))

    # Shapes for which optax reduces every axis but the last: all but rank 3.
    shapes = {"scalar": (), "vector": (5,), "row": (1, 4), "column": (4, 1), "matrix": (4, 3),
              "kernel": (2, 2, 3, 2), "kernel_3d": (1, 2, 1, 2, 3)}
    for dtype, tolerance in [("f32", SINGLE), ("f64", DOUBLE)]:
        gradients = random_tensors(600, 0.1, dtype, shapes)
        weights = random_tensors(601, 0.3, dtype, shapes)
        clipped = published.adaptive_clip(gradients, weights, 0.3)
        kept = sum(np.sum(clipped[name] == gradients[name]) for name in shapes)
        assert 5 < kept < 40, kept
        agc = run(optax.adaptive_grad_clip(0.3), [gradients], dtype, weights)
        for name, values in agc[0]["expected"]["tensors"].items():
            check_close(name, {name: np.ravel(clipped[name])}, {name: values}, tolerance)
        yield case(f"shapes_{dtype}_agc", "agc:0.3", tolerance, *agc)
        fresh = {name: np.zeros_like(values) for name, values in weights.items()}
        for epsilon, suffix in [(1e-3, ""), (0.05, ",eps=0.05")]:
            yield case(f"zero_parameters_{dtype}_agc_eps_{text(epsilon).replace('.', '_')}",
                       f"agc:0.3{suffix}", tolerance,
                       *run(optax.adaptive_grad_clip(0.3, epsilon), [gradients], dtype, fresh))
        gradients = random_tensors(602, 1.0, dtype, shapes)
        yield case(f"shapes_{dtype}_block_rms", "block-rms:2", tolerance,
                   *run(optax.clip_by_block_rms(2.0), [gradients], dtype))
        yield case(f"shapes_{dtype}_global_norm", "global-norm:2", tolerance,
                   *run(optax.clip_by_global_norm(2.0), [gradients], dtype, threshold=2.0))
        # Without optax's default epsilon of 1e-6.
        for name, threshold in [("shrinks", 0.5), ("grows", 1000.0)]:
            yield case(f"shapes_{dtype}_normalize_{name}", f"normalize:{text(threshold)}",
                       tolerance,
                       *run(optax.normalize_by_update_norm(threshold, 0.0), [gradients], dtype))

    # Rank 1 and 2 only, because of agc.
    shapes = {name: shape for name, shape in SHAPES.items() if len(shape) < 3}
    gradients = random_tensors(603, 0.1, shapes=shapes)
    weights = random_tensors(604, shapes=shapes)
    for policy, rules in [
        ("agc:0.01+global-norm:0.02",
         [optax.adaptive_grad_clip(0.01), optax.clip_by_global_norm(0.02)]),
        ("block-rms:0.2+value:0.3", [optax.clip_by_block_rms(0.2), optax.clip(0.3)]),
    ]:
        name = policy.replace(":", "_").replace("+", "_then_").replace("-", "_").replace(".", "_")
        yield case(f"chain_{name}", policy, SINGLE,
                   *run(optax.chain(*rules), [gradients], parameters=weights))

    # A scheduled threshold: step 0 uses the first value.
    for policy, first, last, steps in [("global-norm:2..0.5@4", 2.0, 0.5, 4),
                                       ("global-norm:0.5..2@3", 0.5, 2.0, 3)]:
        schedule = optax.linear_schedule(first, last, steps)
        rule = optax.inject_hyperparams(optax.clip_by_global_norm)(max_norm=schedule)
        # The norm lies inside the range, so that some steps clip and some do not.
        sequence = [{name: stored(values / published.global_norm(gradients) * 1.4, "f32")
                     for name, values in gradients.items()}
                    for gradients in (random_tensors(610 + index, shapes={"w": (2, 3), "b": (3,)})
                                      for index in range(steps + 3))]
        name = f"schedule_from_{text(first)}_to_{text(last)}".replace(".", "_")
        yield case(name, policy, SINGLE,
                   *run(rule, sequence, threshold=lambda index: float(schedule(index))))


def write_optax():
    import optax
    write_clipping("optax", f"optax {optax.__version__} gradient transformations",
                   list(optax_cases()))


# Published methods and exact arithmetic -------------------------------------------------

def check_rounding():
    """Compares `stored` with NumPy's conversions, which also round once."""
    rng = np.random.default_rng(700)
    values = np.ldexp(rng.standard_normal(20000), rng.integers(-30, 20, 20000))
    with np.errstate(over="ignore"):
        for dtype, numpy_type in [("f16", np.float16), ("f32", np.float32)]:
            assert np.array_equal(stored(values, dtype), values.astype(numpy_type), True), dtype
    # bfloat16 is the upper half of a float32, so integer arithmetic can round it.
    single = values.astype(np.float32)
    bits = single.view(np.uint32).astype(np.uint64)
    nearest = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16 << 16).astype(np.uint32)
    assert np.array_equal(stored(single, "bf16"), nearest.view(np.float32))


def rounded_step(gradients, clipped, dtype, exact=False, **details):
    """Rounds float64 results once.  Unless the arithmetic is exact, a few float64 ulps must not
    decide the rounding, because two correct implementations may differ by them."""
    results = {name: stored(values, dtype) for name, values in clipped.items()}
    if dtype != "f64" and not exact:
        for nudge in [1 - 4e-15, 1 + 4e-15]:
            for name, values in clipped.items():
                changed = clipped[name] != gradients[name]
                again = np.where(changed, stored(values * nudge, dtype), results[name])
                assert np.array_equal(again, results[name]), f"{name}: a tie in {dtype}"
    return step(gradients, results, dtype, **details)


def published_fixed():
    # composer tests/algorithms/test_gradient_clipping.py, with its expected results.
    third = 1 / 3
    for name, ratio, weight, gradient, expected in [
        ("1d", 0.5, [3, 4], [7, 24], [0.7, 2.4]),
        ("2d", 0.5, [[3, 4], [9, 40]], [[7, 24], [5, 12]], [[0.7, 2.4], [5, 12]]),
        ("3d", third, [[[3, 8], [2, 2]], [[1, 3], [3, 9]]], [[[1, 1], [3, 5]], [[1, 1], [1, 1]]],
         [[[0.5, 0.5], [1.5, 2.5]], [[1, 1], [1, 1]]]),
        ("4d", third, [[[[3], [8]], [[2], [2]]], [[[1], [3]], [[3], [9]]]],
         [[[[1], [1]], [[3], [5]]], [[[1], [1]], [[1], [1]]]],
         [[[[0.5], [0.5]], [[1.5], [2.5]]], [[[1], [1]], [[1], [1]]]]),
        # Composer has no epsilon and forces the gradient of a zero weight to zero.
        ("1d_zero_weight", 1e-4, [0, 0], [1, 1], None),
        ("1d_zero_gradient", 1e-4, [1, 1], [0, 0], [0, 0]),
        ("1d_zeros", 1e-4, [0, 0], [0, 0], [0, 0]),
    ]:
        gradients, weights = arrays(w=gradient), arrays(w=weight)
        clipped = published.adaptive_clip(gradients, weights, ratio, unit="first")
        if expected is not None:
            check_close(name, clipped, {"w": expected}, 1e-15)
        yield case(f"COMPOSER_agc_{name}", f"agc:{ratio!r},unit=first", ROUNDED,
                   rounded_step(gradients, clipped, "f32", True, parameters=weights,
                                norm=published.global_norm(gradients)))

    shapes = {"scalar": (), "vector": (5,), "row": (1, 4), "column": (4, 1), "matrix": (4, 3),
              "cube": (2, 3, 4), "flat_cube": (1, 1, 4), "kernel": (3, 2, 2, 2)}
    gradients = random_tensors(710, 0.1, shapes=shapes)
    weights = random_tensors(711, 0.3, shapes=shapes)
    # Some units have almost no weight, so that epsilon matters.
    weights["matrix"][0] *= 2.0 ** -20
    weights["cube"][..., 1] *= 2.0 ** -20
    for unit in ["first", "last"]:
        for epsilon, suffix in [(1e-3, ""), (0.1, ",eps=0.1")]:
            clipped = published.adaptive_clip(gradients, weights, 0.3, epsilon, unit)
            yield case(f"shapes_agc_{unit}_eps_{text(epsilon).replace('.', '_')}",
                       f"agc:0.3{suffix},unit={unit}", ROUNDED,
                       rounded_step(gradients, clipped, "f32", parameters=weights,
                                    norm=published.global_norm(gradients)))

    # Megatron's group norms.  The group of "scale" has one tensor.
    shapes = {**SHAPES, "scale": (2,)}
    gradients = random_tensors(712, shapes=shapes)
    for threshold in [0.5, 8.0, 1000.0]:
        clipped = published.clip_group_norm(gradients, threshold)
        yield case(f"group_norm_{text(threshold).replace('.', '_')}",
                   f"group-norm:{text(threshold)}", ROUNDED,
                   rounded_step(gradients, clipped, "f32",
                                norm=published.global_norm(gradients)))
    zeros = arrays(a=np.zeros(3), b=np.zeros((2, 2)))
    for policy in ["normalize:2", "block-rms:2", "group-norm:2"]:
        yield case(f"zero_{policy[:-2].replace('-', '_')}", policy, EXACT,
                   step(zeros, zeros, norm=0.0))


def published_extremes():
    """Values whose squares overflow or underflow float64, from ferx-core PR #1112 and PyTorch's
    T4."""
    largest = sys.float_info.max
    tiny = math.sqrt(sys.float_info.min)
    below = [tiny / 2, -tiny / 3, tiny / 5, 1e-160, 3e-170]
    for name, values, threshold in [
        ("FERX_max_and_one", [largest, 1], 1.0), ("FERX_max_twice", [largest] * 2, 1.0),
        ("FERX_1e160_eight_times", [1e160] * 8, 1.0), ("FERX_tiny_kept", below, 1.0),
        ("FERX_tiny_clipped", below, 1e-158), ("T4_2e200_p_2", [2e200] * 10, 1.0),
        ("T4_2e200_single_p_2", [1.0, 1, 1, 2e200, 1], 1.0),
    ]:
        gradients = arrays(w=values)
        norm = published.global_norm(gradients)
        # Scaled by a power of two, so that no square and no norm overflows.
        shift = -600 if norm > 1 else 600
        moved = {"w": np.ldexp(gradients["w"], shift)}
        clipped = moved["w"] * (threshold / published.global_norm(moved))
        clipped = {"w": clipped if norm > threshold else gradients["w"]}
        if math.isfinite(norm):
            assert math.isclose(norm, math.hypot(*values), rel_tol=1e-15)
        yield case(name, f"global-norm:{threshold!r}", DOUBLE,
                   step(gradients, clipped, "f64", threshold=threshold,
                        norm=norm if math.isfinite(norm) else None))
    gradients = arrays(w=np.full(10, 2e200))
    yield case("T4_2e200_p_3_5", "global-norm:1,p=3.5", DOUBLE,
               step(gradients, published.clip_global_norm(gradients, 1.0, 3.5), "f64",
                    norm=published.global_norm(gradients, 3.5), threshold=1.0))


def published_storage():
    """g * (C / N) in float64, rounded once: every storage type can be compared bit for bit."""
    for dtype, (bits, smallest) in published.STORAGE.items():
        shapes = {"a.weight": (3, 4), "a.bias": (3,), "b.weight": (2, 2, 2)}
        gradients = random_tensors(720, 3.0, dtype, shapes)
        weights = random_tensors(721, 1.0, dtype, shapes)
        # Multiples of 1/8 make every sum of squares exact in float64, so that the norm has one
        # correct value.  Mean squares and powers of other orders are not exact.
        gradients = {name: stored(np.rint(values * 8) / 8, dtype)
                     for name, values in gradients.items()}
        weights = {name: stored(np.rint(values * 8) / 8, dtype)
                   for name, values in weights.items()}
        nearly = 1e-14 if dtype == "f64" else EXACT
        norm = published.global_norm(gradients)
        for policy, tolerance, clipped in [
            ("global-norm:1", EXACT, published.clip_global_norm(gradients, 1.0)),
            ("norm:0.7", EXACT, published.clip_norm(gradients, 0.7)),
            ("value:2.3", EXACT, published.clip_value(gradients, 2.3)),
            ("group-norm:3.3", EXACT, published.clip_group_norm(gradients, 3.3)),
            ("normalize:3", EXACT, published.normalize(gradients, 3.0)),
            ("block-rms:0.9", nearly, published.clip_block_rms(gradients, 0.9)),
            ("agc:0.15", nearly, published.adaptive_clip(gradients, weights, 0.15)),
            ("agc:0.15,unit=first", nearly,
             published.adaptive_clip(gradients, weights, 0.15, unit="first")),
        ]:
            name = policy.translate(str.maketrans(":-,=.", "_____"))
            fixed = policy.partition(":")[0] in ("global-norm", "norm", "value")
            details = {"norm": norm, "threshold": float(policy.split(":")[1]) if fixed else None}
            if policy.startswith("agc"):
                details["parameters"] = weights
            entry = rounded_step(gradients, clipped, dtype, policy == "value:2.3", **details)
            yield case(f"storage_{dtype}_{name}", policy, tolerance, entry)
        for order in [1.0, 3.0, math.inf]:
            clipped = published.clip_global_norm(gradients, 1.0, order)
            entry = rounded_step(gradients, clipped, dtype, threshold=1.0)
            exact = EXACT if order == math.inf else nearly
            yield case(f"storage_{dtype}_global_norm_p_{text(order)}",
                       with_order("global-norm:1", order), exact, entry)

        # Half of an odd multiple of the smallest value is a tie.
        quantum = math.ldexp(1.0, smallest)
        odd = np.array([1, -1, 3, 5, -7, 2, 0]) * quantum
        gradients = {"w": np.concatenate([[4.0], odd])}
        with np.errstate(under="ignore"):
            clipped = published.clip_global_norm(gradients, 2.0, math.inf)
        assert stored(clipped["w"], dtype)[1:6].tolist() == (
            np.array([0, 0, 2, 2, -4]) * quantum).tolist()
        yield case(f"storage_{dtype}_ties_to_even", "global-norm:2,p=inf", EXACT,
                   rounded_step(gradients, clipped, dtype, True, norm=4.0, threshold=2.0))
        if dtype in ("f16", "bf16"):
            # Just above a tie: rounding to float32 first would make it a tie.
            above = 0.5 * (1 + 2.0 ** -bits + 2.0 ** -40)
            gradients = {"w": np.array([1.0, -1.0, 0.5, -0.25])}
            clipped = published.clip_global_norm(gradients, above, math.inf)
            twice = stored(stored(clipped["w"], "f32"), dtype)
            assert not np.any(twice == stored(clipped["w"], dtype))
            yield case(f"storage_{dtype}_rounds_once", f"global-norm:{above!r},p=inf", EXACT,
                       rounded_step(gradients, clipped, dtype, True, norm=1.0, threshold=above))


def gradient_sequence(seed, steps, size, spikes, dtype="f32"):
    """Two small tensors with norms around `size`.  `spikes` maps a step to a factor for all
    tensors, or to one tensor's name and a factor."""
    rng = np.random.default_rng(seed)
    sequence = []
    for index in range(steps):
        gradients = {"a": rng.standard_normal((2, 3)), "b": rng.standard_normal(4)}
        norm = size * math.exp(0.3 * rng.standard_normal()) / published.global_norm(gradients)
        spike = spikes.get(index, 1.0)
        for name, values in gradients.items():
            factor = spike if not isinstance(spike, tuple) else (
                spike[1] if spike[0] == name else 1.0)
            # Multiples of 2^-12 are short in a file and exact in every type used here.
            values = np.rint(values * norm * factor * 4096) / 4096
            values[values == 0] = 1 / 4096
            gradients[name] = stored(values, dtype)
        sequence.append(gradients)
    return sequence


def adaptive_case(name, policy, rule, sequence, dtype="f32"):
    steps, actions = [], set()
    for index, gradients in enumerate(sequence):
        norm = published.global_norm(gradients)
        clipped, threshold = rule.step(gradients)
        action = None
        # A percentile can equal the norm, where rounding decides.  The first norm is its own
        # percentile in any arithmetic.
        if threshold is not None and index > 0 and math.isclose(norm, threshold, rel_tol=1e-9):
            action = False
        steps.append(rounded_step(gradients, clipped, dtype, True, norm=norm,
                                  threshold=threshold, action=action))
        actions.add(steps[-1]["expected"].get("action"))
    assert {"keep", "clip"} <= actions, f"{name} must clip some steps and keep some"
    return case(name, policy, DOUBLE if dtype == "f64" else ROUNDED, *steps)


def published_adaptive():
    for percentile, dtype, spikes in [(10.0, "f32", {7: 20, 30: 100}), (50.0, "f64", {15: 8}),
                                      (90.0, "f32", {3: 0.05, 22: 15, 23: 15, 40: 50})]:
        yield adaptive_case(f"autoclip_{text(percentile)}", f"autoclip:{text(percentile)}",
                            published.AutoClip(percentile),
                            gradient_sequence(int(730 + percentile), 45, 2.0, spikes, dtype),
                            dtype)

    yield adaptive_case("zclip_defaults", "zclip", published.ZClip(),
                        gradient_sequence(740, 60, 0.6, {4: 10, 30: 8, 31: 8, 45: 60, 50: 0.01}))
    yield adaptive_case("zclip_no_cap", "zclip:z=2,alpha=0.9,warmup=10,max=inf",
                        published.ZClip(2.0, 0.9, 10, math.inf),
                        gradient_sequence(741, 45, 3.0, {5: 4, 14: 10, 25: 3, 26: 3, 40: 100}))
    yield adaptive_case("zclip_short_warmup", "zclip:z=3,alpha=0.97,warmup=5,max=2.5",
                        published.ZClip(3.0, 0.97, 5, 2.5),
                        gradient_sequence(742, 45, 2.0, {12: 20, 20: 5, 33: 200}, "f64"), "f64")
    # ZClip tests/test_zclip.py: mean 1 and variance 0.25 clip a norm of 3 to 1.5.
    sequence = [arrays(a=[value]) for value in [0.5, 1.5, 3.0, 1.0]]
    upstream = adaptive_case("ZCLIP_reciprocal", "zclip:z=2,alpha=0.97,warmup=2,max=inf",
                             published.ZClip(2.0, 0.97, 2, math.inf), sequence)
    assert math.isclose(upstream["steps"][2]["expected"]["threshold"], 1.5, rel_tol=1e-5)
    yield upstream

    spikes = {2: ("a", 0.2), 110: ("a", 20), 111: ("b", 50), 120: 9}
    yield adaptive_case("adagc_defaults", "adagc", published.AdaGc(),
                        gradient_sequence(750, 130, 0.9, spikes))
    yield adaptive_case("adagc_short_warmup", "adagc:abs=2,rel=1.1,beta=0.9,warmup=10",
                        published.AdaGc(2.0, 1.1, 0.9, 10),
                        gradient_sequence(751, 45, 1.8, {3: 30, 15: ("b", 40), 30: 0.1, 38: 6}))
    yield adaptive_case("adagc_rel_1", "adagc:abs=0.5,rel=1,beta=0.95,warmup=20",
                        published.AdaGc(0.5, 1.0, 0.95, 20),
                        gradient_sequence(752, 50, 0.6, {21: ("a", 100), 35: ("b", 0.02)}, "f64"),
                        "f64")


def write_published():
    check_rounding()
    cases = [*published_fixed(), *published_extremes(), *published_storage(),
             *published_adaptive()]
    write_clipping("published", f"published formulas in float64, NumPy {np.__version__}", cases)


# Rules inside Adam ----------------------------------------------------------------------

ADAM_SHAPES = {"w": (2, 3), "b": (2,)}


def adam_gradients(seed, steps, spikes):
    """`spikes` maps a step to a factor for all elements, or to a tensor, the index of one
    element, and its factor."""
    rng = np.random.default_rng(seed)
    sequence = []
    for index in range(steps):
        gradients = {name: rng.standard_normal(shape) for name, shape in ADAM_SHAPES.items()}
        spike = spikes.get(index + 1, 1.0)
        if isinstance(spike, tuple):
            gradients[spike[0]].flat[spike[1]] *= spike[2]
        else:
            gradients = {name: values * spike for name, values in gradients.items()}
        for name, values in gradients.items():
            values = np.rint(values * 4096) / 4096
            gradients[name] = np.where(values == 0, 1 / 4096, values)
        sequence.append(gradients)
    return sequence


def adam_case(name, policy, optimizer, rule, settings, sequence):
    parameters = random_tensors(760, dtype="f64", shapes=ADAM_SHAPES)
    parameters = {key: np.rint(values * 4096) / 4096 for key, values in parameters.items()}
    adam = rule(parameters, settings)
    after = []
    for gradients in sequence:
        adam.step(gradients)
        after.append({key: values.copy() for key, values in adam.parameters.items()})
    flat = {key: {"shape": list(values.shape), "values": numbers(values)}
            for key, values in parameters.items()}
    entry = {"name": name, "policy": policy, "optimizer": optimizer, **settings,
             "weight_decay": 0, "parameters": flat,
             "steps": [{key: numbers(values) for key, values in g.items()} for g in sequence],
             "expected": [{key: numbers(values) for key, values in p.items()} for p in after]}
    return entry, adam, parameters, after


def adam_cases():
    usual = {"lr": 0.01, "beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8}
    # The settings of the paper's stable variant.
    stable = {"lr": 0.002, "beta1": 0.9, "beta2": 0.99, "epsilon": 1e-6}

    def update_rms(threshold):
        return lambda parameters, s: published.UpdateRms(parameters, *s.values(),
                                                         threshold=threshold)

    def spam(**options):
        return lambda parameters, s: published.Spam(parameters, *s.values(), **options)

    spikes = {10: 5.0, 11: ("w", 2, 30.0), 20: 0.1, 30: 100.0}
    for name, policy, optimizer, rule, settings, seed in [
        ("update_rms_1_adam", "update-rms:1", "adam", update_rms(1.0), usual, 770),
        ("update_rms_1_adamw", "update-rms:1", "adamw", update_rms(1.0), stable, 771),
        ("update_rms_half_adam", "update-rms:0.5", "adam", update_rms(0.5), stable, 772),
    ]:
        sequence = adam_gradients(seed, 40, spikes)
        entry, _, parameters, after = adam_case(name, policy, optimizer, rule, settings, sequence)
        if policy == "update-rms:1":
            check_stable_adamw(parameters, settings, sequence, after)
        plain = published.Adam(parameters, *settings.values())
        for gradients in sequence:
            plain.step(gradients)
        assert not np.allclose(plain.parameters["w"], after[-1]["w"], rtol=1e-3)
        yield entry

    # Step 22 is the first with limited spikes; 40 and 80 reset; 45 and 90 are within the grace
    # period after a reset, 65 is not.
    spikes = {15: ("w", 0, 100.0), 22: ("w", 1, 60.0), 30: ("b", 1, -80.0), 31: 40.0,
              45: ("w", 4, 90.0), 65: ("w", 5, -300.0), 75: ("b", 0, 50.0),
              90: ("b", 0, 70.0), 105: ("w", 3, 500.0)}
    options = {"theta": 50.0, "reset": 40, "warmup": 10}
    for name, policy, optimizer, rule, settings, seed in [
        ("spam_short_adam", "spam:theta=50,reset=40,warmup=10", "adam", spam(**options),
         usual, 780),
        ("spam_short_adamw", "spam:theta=50,reset=40,warmup=10", "adamw", spam(**options),
         stable, 781),
    ]:
        entry, adam, *_ = adam_case(name, policy, optimizer, rule, settings,
                                    adam_gradients(seed, 110, spikes))
        # A young second moment is far below its mean, so ordinary gradients are limited too.
        assert 10 <= adam.limited <= 440, adam.limited
        yield entry
    spikes = {10: ("w", 0, 500.0), 40: ("w", 1, 300.0), 60: ("b", 1, -3000.0), 61: ("w", 3, 20.0),
              90: 400.0}
    entry, adam, *_ = adam_case("spam_defaults_adam", "spam", "adam", spam(), usual,
                                adam_gradients(782, 100, spikes))
    assert 3 <= adam.limited <= 20, adam.limited
    yield entry


def check_stable_adamw(parameters, settings, sequence, after):
    """Compares ours with torch-optimi's StableAdamW, if it is installed.  That one corrects the
    betas, beta * (1 - beta^(t-1)) / (1 - beta^t), so that its moments are Adam's
    m / (1 - beta1^t) and v / (1 - beta2^t): the same update."""
    try:
        import optimi
        import torch
    except ImportError:
        print("torch-optimi is not installed; skipping the comparison with its StableAdamW")
        return
    leaves = {name: torch.from_numpy(values.copy()).requires_grad_()
              for name, values in parameters.items()}
    optimizer = optimi.StableAdamW(leaves.values(), lr=settings["lr"], eps=settings["epsilon"],
                                   betas=(settings["beta1"], settings["beta2"]), weight_decay=0,
                                   foreach=False, triton=False)
    for gradients, expected in zip(sequence, after):
        for name, leaf in leaves.items():
            leaf.grad = torch.from_numpy(gradients[name].copy())
        optimizer.step()
        check_close("StableAdamW", expected,
                    {name: leaf.detach().numpy() for name, leaf in leaves.items()}, 1e-10)


def check_plain_adam():
    """Compares our Adam without a rule with PyTorch's."""
    try:
        import torch
    except ImportError:
        return
    parameters = random_tensors(790, dtype="f64", shapes=ADAM_SHAPES)
    leaves = {name: torch.from_numpy(values.copy()).requires_grad_()
              for name, values in parameters.items()}
    optimizer = torch.optim.Adam(leaves.values(), lr=0.01, betas=(0.9, 0.99), eps=1e-8)
    ours = published.Adam(parameters, 0.01, 0.9, 0.99, 1e-8)
    for gradients in adam_gradients(791, 50, {20: 30.0}):
        for name, leaf in leaves.items():
            leaf.grad = torch.from_numpy(gradients[name].copy())
        optimizer.step()
        ours.step(gradients)
        check_close("Adam", ours.parameters,
                    {name: leaf.detach().numpy() for name, leaf in leaves.items()}, 1e-10)


def write_adam():
    check_plain_adam()
    cases = list(adam_cases())
    blocks = []
    for entry in cases:
        lines = [f"{json.dumps(key)}: " + (
            json.dumps(value) if not isinstance(value, list) else
            "[\n" + ",\n".join(json.dumps(line, separators=(",", ":")) for line in value) + "\n]")
            for key, value in entry.items()]
        blocks.append("{" + ",\n".join(lines) + "}")
    write(ADAM_FOLDER / "adam_clipping.json",
          '{"cases": [\n' + ",\n".join(blocks) + "\n]}\n", len(cases))


PARTS = {"torch": write_torch, "tensorflow": write_tensorflow, "keras": write_keras,
         "optax": write_optax, "published": write_published, "adam": write_adam}


def main():
    if len(sys.argv) > 2 or sys.argv[1:] not in ([], ["all"], *([part] for part in PARTS)):
        sys.exit(__doc__)
    # Hides TensorFlow's messages about the machine.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if sys.argv[1:] in ([], ["all"]):
        # One process per framework, because they load conflicting versions of libraries.
        sys.exit(max(subprocess.run([sys.executable, __file__, part]).returncode != 0
                     for part in PARTS))
    part = sys.argv[1]
    try:
        if part not in ("published", "adam"):
            importlib.import_module(part)
    except ImportError as error:
        print(f"{part} is skipped: {error}")
    else:
        PARTS[part]()


if __name__ == "__main__":
    main()
