"""Times PyTorch's clipping on the sizes of crates/gradclip/examples/speed.rs, for LOG.md.

Usage: python tools/clip_speed.py [MILLIONS] [THREADS]
"""

import sys
import time

import torch


def best_of(function, steps=15):
    """The shortest of many calls, in milliseconds."""
    times = []
    for _ in range(steps):
        started = time.perf_counter()
        function()
        times.append(time.perf_counter() - started)
    return 1e3 * min(times)


def main():
    tensors = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    torch.set_num_threads(int(sys.argv[2]) if len(sys.argv) > 2 else 1)
    parameters = [torch.zeros(1024, 1024, requires_grad=True) for _ in range(tensors)]
    for parameter in parameters:
        parameter.grad = torch.rand(1024, 1024) * 2 - 1
    gradients = [parameter.grad for parameter in parameters]
    utils = torch.nn.utils
    print(f"PyTorch {torch.__version__}, {torch.get_num_threads()} thread(s), milliseconds")
    print(f"get_total_norm    {best_of(lambda: utils.get_total_norm(gradients)):8.2f}")
    print(f"clip_grad_norm_   {best_of(lambda: utils.clip_grad_norm_(parameters, 1000)):8.2f}")
    print(f"clip_grad_value_  {best_of(lambda: utils.clip_grad_value_(parameters, 0.3)):8.2f}")


if __name__ == "__main__":
    main()
