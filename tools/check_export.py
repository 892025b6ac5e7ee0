"""Compares the text and logits of a run's model with those of its export in another program.

Usage: cargo build --release --workspace --bin shears --example logits
       python tools/check_export.py huggingface|gguf|pytorch RUN [PROMPT]
(needs numpy, safetensors; torch and transformers; xllamacpp, which is llama.cpp)

Exports the run with `shears export`, loads the result in the other program, continues the prompt
greedily, and compares 200 tokens and their logits with `crates/shears-exchange/examples/logits.rs`.
The context must be long enough for prompt and tokens.
"""

import json
import os
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

PROGRAMS = Path(__file__).resolve().parents[1] / "target/release"
TOKENS = 200
# For sums of a few hundred float32 terms in another order.
TOLERANCE = 1e-4
# llama.cpp only has the tanh GELU, from a half-precision table.
GGUF_TOLERANCE = {"f32": 3e-3, "f16": 1e-2, "q8_0": 0.3}


def run_program(name, *arguments):
    subprocess.run([PROGRAMS / name, *map(str, arguments)], check=True)


def run_shears(run, prompt, folder):
    """Prompt and continuation as ids, and the logits of each new token."""
    path = folder / "logits.safetensors"
    run_program("examples/logits", run, prompt, TOKENS, path)
    tensors = load_file(path)
    return tensors["tokens"].astype(np.int64), tensors["logits"]


def check_ids(tokenizer, ids, what):
    """Checks that the tokenizer decodes the ids, and encodes the text to the same ids."""
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


def check_gguf(run, prompt, folder, tokens, logits):
    for kind, tolerance in GGUF_TOLERANCE.items():
        out = folder / kind
        run_program("shears", "export", run, "--format", "gguf", "--dtype", kind, "--out", out)
        size = (out / "model.gguf").stat().st_size
        # One process each, because the server ends with it.
        command = [sys.executable, __file__, "complete", out / "model.gguf", prompt,
                   str(logits.shape[1])]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        answer = json.loads(done.stdout.splitlines()[-1])
        assert answer["prompt"] == tokens[:-TOKENS].tolist(), f"{kind}: the prompt has other ids"
        written = np.array(answer["ids"])
        equal = int(np.argmin(np.append(written == tokens[-TOKENS:], False)))
        # Once the texts differ, later positions are not comparable.
        steps = range(min(equal + 1, TOKENS))
        difference = max(difference_of(answer["logprobs"][step], logits[step]) for step in steps)
        print(f"llama.cpp, {kind}, {size} bytes: {equal} of {TOKENS} tokens equal, "
              f"logits within {difference:.1e}")
        assert difference <= tolerance, "logits differ"
        assert equal == TOKENS or kind != "f32", "greedy text differs"


def difference_of(theirs, ours):
    """The largest difference of log-probabilities and logits, up to a constant offset."""
    differences = np.array([value - ours[int(id)] for id, value in theirs.items()
                            if int(id) < len(ours)])
    return np.abs(differences - differences.mean()).max()


def complete(path, prompt, vocabulary):
    """Prints llama.cpp's continuation of a prompt as JSON."""
    import xllamacpp

    parameters = xllamacpp.CommonParams()
    parameters.model.path = path
    parameters.n_parallel = 1
    parameters.warmup = False
    # By default the attention is summed in half precision, which would hide errors of the file.
    parameters.cache_type_k = parameters.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    parameters.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    server = xllamacpp.Server(parameters)

    def ask(what, **body):
        request = urllib.request.Request(server.listening_address + what,
                                         json.dumps(body).encode(),
                                         {"Content-Type": "application/json"})
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)

    ids = ask("/tokenize", content=prompt)["tokens"]
    assert ask("/detokenize", tokens=ids)["content"] == prompt, "the prompt does not come back"
    answer = ask("/completion", prompt=prompt, n_predict=TOKENS, temperature=0,
                 n_probs=vocabulary + 1, cache_prompt=False)
    steps = answer["completion_probabilities"]
    print(json.dumps({
        "prompt": ids,
        "ids": [step["id"] for step in steps],
        "logprobs": [{top["id"]: top["logprob"] for top in step["top_logprobs"]}
                     for step in steps],
    }), flush=True)


def check_pytorch(run, prompt, folder, tokens, logits):
    """Runs the code of the README verbatim, and continues as described there."""
    import torch

    out = folder / "pytorch"
    run_program("shears", "export", run, "--format", "pytorch", "--out", out)
    code = (out / "README.md").read_text().split("```python\n")[1].split("```")[0]
    os.chdir(out)
    names = {}
    exec(code.replace('"The "', json.dumps(prompt)), names)
    model, after, state = names["model"], names["logits"], names["state"]
    ids = names["tokenizer"].encode(prompt).ids
    assert ids == tokens[:-TOKENS].tolist(), "the prompt has other ids"
    difference = 0.0
    with torch.no_grad():
        after = after.detach()
        for step in range(TOKENS):
            theirs = after[0, -1].numpy()
            difference = max(difference, np.abs(theirs - logits[step]).max())
            ids.append(int(theirs.argmax()))
            after, state = model(torch.tensor([ids[-1:]]), state)
    assert ids == tokens.tolist(), "greedy text differs"
    assert difference <= TOLERANCE, f"logits differ by {difference}"
    print(f"PyTorch: {TOKENS} tokens equal, logits within {difference:.1e}")


CHECKS = {"huggingface": check_huggingface, "gguf": check_gguf, "pytorch": check_pytorch}


def main():
    if sys.argv[1] == "complete":
        complete(sys.argv[2], sys.argv[3], int(sys.argv[4]))
        return
    check = CHECKS[sys.argv[1]]
    run = Path(sys.argv[2]).resolve()
    prompt = sys.argv[3] if len(sys.argv) > 3 else "\n"
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        tokens, logits = run_shears(run, prompt, folder)
        check(run, prompt, folder, tokens, logits)


if __name__ == "__main__":
    main()
