"""Measures the time and memory to load models of GPT-2 Small's size.

Usage: cargo build --release --workspace --example load
       python tools/measure_import.py [gpt2|gpt2-bin|llama ...]
(needs torch and transformers, and 500 MB of disk space for each)

Writes a Hugging Face folder with random weights, 124 million in GPT-2's shape or about as many in
Llama's.  Times reading its files and running `crates/shears-exchange/examples/load.rs`, which loads
the model; reports the least of five times each.  On Linux, the files are evicted from the page
cache before each measurement, so that they are read from disk.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

PROGRAM = Path(__file__).resolve().parents[1] / "target/release/examples/load"
ROUNDS = 5


def gpt_2(folder):
    GPT2LMHeadModel(GPT2Config()).save_pretrained(folder)


def gpt_2_bin(folder):
    model = GPT2LMHeadModel(GPT2Config())
    model.config.save_pretrained(folder)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")


def llama(folder):
    config = LlamaConfig(vocab_size=50257, hidden_size=768, intermediate_size=2048,
                         num_hidden_layers=12, num_attention_heads=12, num_key_value_heads=4,
                         max_position_embeddings=1024, tie_word_embeddings=True)
    LlamaForCausalLM(config).save_pretrained(folder)


MODELS = {"gpt2": gpt_2, "gpt2-bin": gpt_2_bin, "llama": llama}


def forget(files):
    """Drops files from the page cache."""
    for path in files:
        with open(path, "rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read(files):
    buffer = bytearray(1 << 20)
    for path in files:
        with open(path, "rb", buffering=0) as file:
            while file.readinto(buffer):
                pass


def measure(name):
    reading, runs = [], []
    with tempfile.TemporaryDirectory() as folder:
        MODELS[name](Path(folder))
        files = [path for path in Path(folder).iterdir() if path.suffix in (".safetensors", ".bin")]
        size = sum(path.stat().st_size for path in files)
        for _ in range(ROUNDS):
            forget(files)
            start = time.perf_counter()
            read(files)
            reading.append(time.perf_counter() - start)
            forget(files)
            done = subprocess.run([PROGRAM, folder], check=True, capture_output=True, text=True)
            runs.append(json.loads(done.stdout))
    loading = min(run["seconds"] for run in runs)
    peak = max(run["peak_rss_bytes"] for run in runs)
    print(f"{name}: {size / 1e6:.0f} MB read in {min(reading):.3f} s, loaded in {loading:.3f} s "
          f"({loading / min(reading):.2f} times), at most {peak / 1e6:.0f} MB of memory "
          f"({peak / size:.2f} times)")


def main():
    for name in sys.argv[1:] or MODELS:
        measure(name)


if __name__ == "__main__":
    main()
