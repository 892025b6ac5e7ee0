"""Compares what a run's model writes and predicts with what its exported form does elsewhere.

Usage: cargo build --release --workspace --bin shears --example logits
       python tools/check_export.py RUN [PROMPT]   (needs numpy, safetensors, torch and transformers)

Exports the run by `shears export`, loads the folder with transformers, continues the prompt by the
likeliest token, and compares 200 tokens one by one, and the logits that each was chosen by, with
those of `crates/shears-exchange/examples/logits.rs`.  The context has to hold prompt and tokens.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

PROGRAMS = Path(__file__).resolve().parents[1] / "target/release"
TOKENS = 200
# Sums of a few hundred terms in float32, in another order.
TOLERANCE = 1e-4


def run_program(name, *arguments):
    subprocess.run([PROGRAMS / name, *map(str, arguments)], check=True)


def of_shears(run, prompt, folder):
    """Prompt and continuation as ids, and the logits of each new token."""
    path = folder / "logits.safetensors"
    run_program("examples/logits", run, prompt, TOKENS, path)
    tensors = load_file(path)
    return tensors["tokens"].astype(np.int64), tensors["logits"]


def check_ids(tokenizer, ids, what):
    """The tokenizer gives the text of the ids, and the ids of the text."""
    text = tokenizer.decode(ids)
    again = tokenizer(text)["input_ids"]
    assert again == list(ids), f"{what}: {text!r} becomes other ids"
    return text


def check_huggingface(run, prompt, folder, tokens, logits):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    out = folder / "huggingface"
    run_program("shears", "export", run, "--format", "huggingface", "--out", out)
    tokenizer = AutoTokenizer.from_pretrained(out)
    model, told = AutoModelForCausalLM.from_pretrained(out, output_loading_info=True)
    for kind, names in told.items():
        assert not names, f"{kind}: {names}"
    start = tokenizer(prompt, return_tensors="pt")
    assert start["input_ids"][0].tolist() == tokens[:-TOKENS].tolist(), "the prompt has other ids"
    written = model.generate(**start, max_new_tokens=TOKENS, do_sample=False)[0].numpy()
    assert np.array_equal(written, tokens), "greedy text differs"
    check_ids(tokenizer, written.tolist(), "huggingface")
    with torch.no_grad():
        theirs = model(torch.from_numpy(written)[None]).logits[0].numpy()
    difference = np.abs(theirs[-TOKENS - 1:-1] - logits).max()
    assert difference <= TOLERANCE, f"logits differ by {difference}"
    card = json.loads((out / "config.json").read_text())["shears"]
    assert card["SHA-256 of the text"], "the config does not say where the model is from"
    print(f"transformers: {TOKENS} tokens equal, logits within {difference:.1e}")


def main():
    run = Path(sys.argv[1]).resolve()
    prompt = sys.argv[2] if len(sys.argv) > 2 else "\n"
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        tokens, logits = of_shears(run, prompt, folder)
        check_huggingface(run, prompt, folder, tokens, logits)


if __name__ == "__main__":
    main()
