"""The clipping rules in float64 NumPy, written from their published formulas.

Imported by clipping.py.  Gradients are dicts from a tensor's name to a float64 array.  Rules
return new, unrounded gradients; `stored` rounds them to a storage type, once.

Compared by hand with the authors' code, in float64 over the sequences of clipping.py (largest
relative difference):
- ZClip: zclip/zclip.py of bluorion-com/ZClip.  Gradients 9.3e-7, which is its 1e-6 in the
  coefficient; mean and variance after every step 2.3e-16.
- Spam: galore_torch/SPAM.py of TianjinYellow/SPAM-Optimizer.  Parameters 6.7e-16 with epsilon
  0.  With an epsilon of 1e-8 they differ by 2.1e-7: it adds epsilon to sqrt(v) before the bias
  correction, PyTorch's Adam and this file after it.
- AdaGc: pytorch_optimizer/optimizer/adagc.py of kozistr/pytorch_optimizer.  Its warm-up divides
  by the SQUARE of the global norm (its get_global_gradient_norm takes no root), unlike
  arXiv 2502.11034, and parameters differ by up to 9 %.  With the root added they agree to
  7.2e-9, the error of its float32 sum of squares.
- AutoClip is one call of numpy.percentile.
"""

import math

import numpy as np

# Bits of the significand, including the hidden one, and the exponent of the smallest subnormal.
STORAGE = {"f16": (11, -24), "bf16": (8, -133), "f32": (24, -149), "f64": (53, -1074)}
LARGEST = {"f16": 65504.0, "bf16": float.fromhex("0x1.fep127"),
           "f32": float.fromhex("0x1.fffffep127"), "f64": float.fromhex("0x1.fffffffffffffp1023")}


def stored(values, dtype):
    """Rounds float64 values to a storage type once, to nearest with ties to even.

    Going through float32, like PyTorch for float16 and bfloat16, would round twice.
    """
    values = np.asarray(values, np.float64)
    if dtype == "f64":
        return values.copy()
    bits, smallest = STORAGE[dtype]
    _, exponents = np.frexp(values)
    # Powers of two, so that division and multiplication are exact.
    quantum = np.ldexp(1.0, np.maximum(exponents - bits, smallest))
    rounded = np.rint(values / quantum) * quantum
    return np.where(np.abs(rounded) > LARGEST[dtype], np.copysign(np.inf, values), rounded)


# Norms ----------------------------------------------------------------------------------

def norm_of(values, order=2.0):
    """The p-norm of one array; the sum is rounded once and does not overflow."""
    magnitudes = [abs(value) for value in np.ravel(values).tolist()]
    largest = max(magnitudes, default=0.0)
    if largest == 0.0 or order == math.inf:
        return largest
    if order == 2.0:
        # Scaling by a power of two is exact.
        _, exponent = math.frexp(largest)
        scaled = [math.ldexp(value, -exponent) for value in magnitudes]
        root = math.sqrt(math.fsum(value * value for value in scaled))
        # ldexp raises an error if the norm exceeds float64.
        return math.ldexp(root, exponent) if exponent + math.frexp(root)[1] <= 1024 else math.inf
    return largest * math.fsum((value / largest) ** order for value in magnitudes) ** (1 / order)


def global_norm(gradients, order=2.0):
    """The p-norm of all tensors as one vector."""
    parts = [np.ravel(gradient) for gradient in gradients.values()]
    return norm_of(np.concatenate(parts) if parts else [], order)


def scaled(gradient, threshold, norm):
    """g * (C / N) if N > C, otherwise g."""
    return gradient * (threshold / norm) if norm > threshold else gradient.copy()


# Fixed thresholds -----------------------------------------------------------------------

def clip_value(gradients, threshold):
    return {name: np.clip(g, -threshold, threshold) for name, g in gradients.items()}


def clip_norm(gradients, threshold, order=2.0):
    return {name: scaled(g, threshold, norm_of(g, order)) for name, g in gradients.items()}


def clip_global_norm(gradients, threshold, order=2.0):
    norm = global_norm(gradients, order)
    return {name: scaled(g, threshold, norm) for name, g in gradients.items()}


def clip_group_norm(gradients, threshold):
    """Tensors form a group if their names agree up to the last dot."""
    groups = {}
    for name, gradient in gradients.items():
        groups.setdefault(name.rpartition(".")[0], {})[name] = gradient
    clipped = {}
    for group in groups.values():
        clipped |= clip_global_norm(group, threshold)
    return {name: clipped[name] for name in gradients}


def clip_block_rms(gradients, threshold):
    def clip(g):
        return scaled(g, threshold, norm_of(g) / math.sqrt(g.size)) if g.size else g.copy()
    return {name: clip(g) for name, g in gradients.items()}


def normalize(gradients, threshold):
    norm = global_norm(gradients)
    return {name: g * (threshold / norm) if norm > 0 else g.copy()
            for name, g in gradients.items()}


def adaptive_clip(gradients, parameters, ratio, epsilon=1e-3, unit="last"):
    """AGC (arXiv 2102.06171).  Units are indexed by the last axis (kernels stored as input x
    output: NFNets, optax) or by the first (output x input: timm, composer).  Tensors with at
    most one axis longer than 1 are one unit, as in the authors' JAX code; timm and composer
    only check the rank, so for them [n, 1] has n units."""
    clipped = {}
    for name, gradient in gradients.items():
        if sum(length > 1 for length in gradient.shape) <= 1:
            units = [...]
        elif unit == "last":
            units = [(..., index) for index in range(gradient.shape[-1])]
        else:
            units = [(index, ...) for index in range(gradient.shape[0])]
        result = gradient.copy()
        for index in units:
            bound = ratio * max(norm_of(parameters[name][index]), epsilon)
            result[index] = scaled(gradient[index], bound, norm_of(gradient[index]))
        clipped[name] = result
    return clipped


# Adaptive thresholds --------------------------------------------------------------------
# `step` returns the clipped gradients and the threshold of the step, None if each tensor has
# its own.

class AutoClip:
    """arXiv 2007.14469: the threshold is a percentile of all norms so far, including this one."""

    def __init__(self, percentile):
        self.percentile = percentile
        self.norms = []

    def step(self, gradients):
        self.norms.append(global_norm(gradients))
        threshold = float(np.percentile(self.norms, self.percentile))
        return clip_global_norm(gradients, threshold), threshold


class ZClip:
    """arXiv 2504.02507, mode zscore with adaptive scaling: a norm with a z-score z above the
    limit is clipped to mean + limit * deviation / (z / limit)."""

    def __init__(self, z=2.5, alpha=0.97, warmup=25, maximum=1.0):
        self.limit, self.alpha, self.warmup, self.maximum = z, alpha, warmup, maximum
        self.norms = []
        self.mean = self.variance = None

    def step(self, gradients):
        norm = global_norm(gradients)
        threshold = self.maximum if self.mean is None else min(self.learn(norm), self.maximum)
        if self.mean is None:
            self.warm_up(norm)
        return clip_global_norm(gradients, threshold), threshold

    def warm_up(self, norm):
        self.norms.append(norm)
        if len(self.norms) == self.warmup:
            self.mean, self.variance = float(np.mean(self.norms)), float(np.var(self.norms))

    def learn(self, norm):
        """Returns the threshold by the z-score, infinity if the norm is no spike."""
        deviation = math.sqrt(self.variance)
        z = (norm - self.mean) / (deviation + 1e-6)
        spike = z > self.limit
        target = self.mean + self.limit * deviation / (z / self.limit) if spike else norm
        # The statistics use the norm before the cap, and the variance uses the new mean.
        self.mean = self.alpha * self.mean + (1 - self.alpha) * target
        self.variance = self.alpha * self.variance + (1 - self.alpha) * (target - self.mean) ** 2
        return target if spike else math.inf


class AdaGc:
    """arXiv 2502.11034: each tensor is clipped by a running average of its clipped norms, which
    starts as the smallest norm of a warm-up with global clipping."""

    def __init__(self, absolute=1.0, relative=1.05, beta=0.98, warmup=100):
        self.absolute, self.relative, self.beta, self.warmup = absolute, relative, beta, warmup
        self.steps = 0
        self.averages = {}

    def step(self, gradients):
        self.steps += 1
        return (self.warm_up if self.steps < self.warmup else self.learn)(gradients), None

    def warm_up(self, gradients):
        clipped = clip_global_norm(gradients, self.absolute)
        for name, gradient in clipped.items():
            norm = norm_of(gradient)
            self.averages[name] = min(self.averages.get(name, norm), norm)
        return clipped

    def learn(self, gradients):
        clipped = {}
        for name, gradient in gradients.items():
            average = self.averages[name]
            clipped[name] = scaled(gradient, self.relative * average, norm_of(gradient))
            norm = norm_of(clipped[name])
            self.averages[name] = self.beta * average + (1 - self.beta) * norm
        return clipped


# Rules inside Adam ----------------------------------------------------------------------

class Adam:
    """PyTorch's Adam without weight decay, with which AdamW is the same."""

    def __init__(self, parameters, lr, beta1, beta2, epsilon):
        self.parameters = {name: values.copy() for name, values in parameters.items()}
        self.lr, self.beta1, self.beta2, self.epsilon = lr, beta1, beta2, epsilon
        self.first = {name: np.zeros_like(values) for name, values in parameters.items()}
        self.second = {name: np.zeros_like(values) for name, values in parameters.items()}
        self.steps = 0

    def step(self, gradients):
        self.steps += 1
        self.before_tensors()
        for name, gradient in gradients.items():
            gradient = self.limit(name, gradient)
            self.first[name] = self.beta1 * self.first[name] + (1 - self.beta1) * gradient
            self.second[name] = self.beta2 * self.second[name] + (1 - self.beta2) * gradient ** 2
            first = self.first[name] / (1 - self.beta1 ** self.steps)
            second = self.second[name] / (1 - self.beta2 ** self.steps)
            rate = self.lr * self.factor(gradient, second)
            self.parameters[name] = (self.parameters[name]
                                     - rate * first / (np.sqrt(second) + self.epsilon))

    def before_tensors(self):
        """Runs once per step."""

    def limit(self, name, gradient):
        """The gradient that updates the moments."""
        return gradient

    def factor(self, gradient, second):
        """The factor of the learning rate for one tensor."""
        return 1.0


class UpdateRms(Adam):
    """StableAdamW, arXiv 2304.13013 algorithm 2: the rate of a tensor is divided by the root
    mean square of g / sqrt(v) where that exceeds the threshold."""

    def __init__(self, *adam, threshold=1.0):
        super().__init__(*adam)
        self.threshold = threshold

    def factor(self, gradient, second):
        floor = np.maximum(second, self.epsilon ** 2)
        rms = math.sqrt(np.mean(gradient ** 2 / floor))
        return 1 / max(1.0, rms / self.threshold)


class Spam(Adam):
    """arXiv 2501.06842: limits elements whose square exceeds theta * v, and zeroes both moments
    every `reset` steps, after which the learning rate warms up again."""

    # Right after a reset the second moment is too young to detect spikes.
    GRACE = 20

    def __init__(self, *adam, theta=5000.0, reset=500, warmup=150):
        super().__init__(*adam)
        self.theta, self.reset, self.warmup = theta, reset, warmup
        self.limited = 0

    def before_tensors(self):
        if self.steps % self.reset == 0:
            for name in self.parameters:
                self.first[name] = np.zeros_like(self.first[name])
                self.second[name] = np.zeros_like(self.second[name])

    def limit(self, name, gradient):
        if self.steps < self.GRACE or self.steps % self.reset < self.GRACE:
            return gradient
        bound = self.theta * self.second[name]
        spikes = (gradient ** 2 > bound) & (self.second[name] > 0)
        self.limited += int(spikes.sum())
        return np.where(spikes, np.sign(gradient) * np.sqrt(bound), gradient)

    def factor(self, gradient, second):
        since_reset = self.steps % self.reset
        if self.steps < self.reset or since_reset >= self.warmup:
            return 1.0
        return 1 - 0.99 * (1 + math.cos(math.pi * since_reset / (self.warmup + 1))) / 2
