"""Usage: python tools/golden/exchange.py [NAME ...]   (needs torch, transformers, numpy and
safetensors; writes the named cases, or all)
Writes small random models in the file formats of other programs to
crates/shears-exchange/tests/golden, one folder per case, each with those programs' predictions in
`expected.safetensors` (tokens [1, time], logits [1, time, vocabulary]).

Vocabulary 40 and width 16 differ, so that a matrix is not mistaken for its transpose.
"""

import json
import pickle
import shutil
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

FOLDER = Path(__file__).resolve().parents[2] / "crates/shears-exchange/tests/golden"
VOCABULARY, WIDTH, HEADS, BLOCKS, CONTEXT = 40, 16, 2, 2, 12


def draw(model, seed):
    """Parameters large enough that no part of the model vanishes in the logits."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            values = 0.3 * torch.randn(parameter.shape, generator=generator)
            is_norm = ("ln_" in name or "norm" in name) and "weight" in name
            parameter.copy_(values + 1.0 if is_norm else values)
    return model.eval()


def predict(folder, model, seed):
    tokens = torch.from_numpy(np.random.default_rng(seed).integers(VOCABULARY, size=(1, CONTEXT)))
    with torch.no_grad():
        answer = model(tokens)
    logits = answer.logits if hasattr(answer, "logits") else answer[0]
    tensors = {"tokens": tokens.to(torch.int32), "logits": logits.float().contiguous()}
    save_file(tensors, folder / "expected.safetensors")


def new_folder(name):
    folder = FOLDER / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def gpt_2(eos_token_id=7, **settings):
    return GPT2LMHeadModel(GPT2Config(
        vocab_size=VOCABULARY, n_positions=CONTEXT, n_embd=WIDTH, n_head=HEADS, n_layer=BLOCKS,
        bos_token_id=None, eos_token_id=eos_token_id, **settings))


def llama(**settings):
    """No value is the default, so that a value that is not read changes the logits."""
    return LlamaForCausalLM(LlamaConfig(
        vocab_size=VOCABULARY, max_position_embeddings=CONTEXT, hidden_size=WIDTH,
        intermediate_size=24, num_attention_heads=4, num_hidden_layers=BLOCKS,
        bos_token_id=None, eos_token_id=[7, 8], **settings))


def hugging_face(name, seed, make, dtype=torch.float32, shard=None, change=None, **settings):
    folder = new_folder(name)
    # The stored parameters are rounded; PyTorch predicts from them in single precision.
    model = draw(make(**settings), seed).to(dtype)
    more = {"max_shard_size": shard} if shard else {}
    model.save_pretrained(folder, **more)
    # Loaded again, because converting the model back would leave the rotary angles rounded.
    predict(folder, type(model).from_pretrained(folder, dtype=torch.float32).eval(), seed)
    if change:
        change(folder, model)
    (folder / "generation_config.json").unlink(missing_ok=True)
    print(name, sum(file.stat().st_size for file in folder.iterdir()), "bytes")


def without_prefix(folder, model):
    """Like the first GPT-2 files: no prefix, and attention masks among the weights."""
    path = folder / "model.safetensors"
    tensors = {name.removeprefix("transformer."): tensor for name, tensor in
               load_file(path).items()}
    for block in range(BLOCKS):
        mask = torch.tril(torch.ones(CONTEXT, CONTEXT)).view(1, 1, CONTEXT, CONTEXT)
        tensors[f"h.{block}.attn.bias"] = mask
        tensors[f"h.{block}.attn.masked_bias"] = torch.tensor(-1e4)
    save_file(tensors, path, metadata={"format": "pt"})


def as_pickle(folder, model):
    """As saved by transformers before 4.35: the output layer shares the embedding's storage."""
    (folder / "model.safetensors").unlink()
    torch.save(model.state_dict(), folder / "pytorch_model.bin")


def as_pickles(folder, model):
    """`as_pickle` in two files and an index."""
    (folder / "model.safetensors").unlink()
    tensors = list(model.state_dict().items())
    weight_map = {}
    for number, part in enumerate([tensors[:9], tensors[9:]], 1):
        file = f"pytorch_model-{number:05}-of-00002.bin"
        torch.save({name: tensor.clone() for name, tensor in part}, folder / file)
        weight_map.update({name: file for name, _ in part})
    index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index, indent=2))


def as_version_4(folder, model):
    """As saved by transformers 4: rope_theta and a null rope_scaling in the configuration, and
    each layer's inv_freq among the weights."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config["rope_theta"] = config.pop("rope_parameters")["rope_theta"]
    config["rope_scaling"] = None
    path.write_text(json.dumps(config, indent=2))
    path = folder / "model.safetensors"
    tensors = load_file(path)
    for block in range(BLOCKS):
        tensors[f"model.layers.{block}.self_attn.rotary_emb.inv_freq"] = torch.ones(2)
    save_file(tensors, path, metadata={"format": "pt"})


def nano_gpt():
    """A checkpoint as saved by nanoGPT's train.py, of a compiled model without biases."""
    folder = new_folder("nanogpt")
    model = draw(gpt_2(eos_token_id=None, activation_function="gelu"), 6)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(".bias"):
                parameter.zero_()
    predict(folder, model, 6)
    tensors = {}
    for name, tensor in model.state_dict().items():
        if name.endswith(".bias"):
            continue
        is_conv = any(part in name for part in ["c_attn", "c_proj", "c_fc"])
        tensors["_orig_mod." + name] = tensor.t().contiguous() if is_conv else tensor
    arguments = {"n_layer": BLOCKS, "n_head": HEADS, "n_embd": WIDTH, "block_size": CONTEXT,
                 "bias": False, "vocab_size": VOCABULARY, "dropout": 0.0}
    torch.save({"model": tensors, "optimizer": {"state": {0: {"step": torch.tensor(3.0)}}},
                "model_args": arguments, "iter_num": 3, "best_val_loss": torch.tensor(1.5),
                "config": {"dataset": "shakespeare_char", "learning_rate": 1e-3}},
               folder / "ckpt.pt")
    characters = "\n !" + "".join(map(chr, range(ord("A"), ord("A") + VOCABULARY - 4))) + "\u00e9"
    with open(folder / "meta.pkl", "wb") as file:
        pickle.dump({"vocab_size": VOCABULARY, "itos": dict(enumerate(characters)),
                     "stoi": {c: i for i, c in enumerate(characters)}}, file)


class Recurrent(torch.nn.Module):
    """Like the word language model of PyTorch's examples; without an embedding, tokens are one-hot
    vectors, as in Udacity's CharRNN."""

    def __init__(self, cell, embedding, layers):
        super().__init__()
        self.encoder = torch.nn.Embedding(VOCABULARY, embedding) if embedding else None
        self.rnn = cell(embedding or VOCABULARY, WIDTH, layers, batch_first=True)
        self.decoder = torch.nn.Linear(WIDTH, VOCABULARY)

    def forward(self, tokens):
        inputs = self.encoder(tokens) if self.encoder else \
            torch.nn.functional.one_hot(tokens, VOCABULARY).float()
        return self.decoder(self.rnn(inputs)[0]), None


def recurrent(name, seed, cell, embedding, layers, form):
    folder = new_folder(name)
    model = draw(Recurrent(cell, embedding, layers), seed)
    predict(folder, model, seed)
    torch.save({"state_dict": model.state_dict(),
                "dictionary": {"state_dict": model.state_dict(), "n_hidden": WIDTH},
                "module": model}[form], folder / "model.pt")


CASES = {
    "gpt2-tied": lambda name: hugging_face(name, 1, gpt_2, activation_function="gelu_new"),
    "gpt2-untied-f16": lambda name: hugging_face(
        name, 2, gpt_2, torch.float16, activation_function="gelu", tie_word_embeddings=False),
    "gpt2-sharded-bf16": lambda name: hugging_face(name, 3, gpt_2, torch.bfloat16, "12KB"),
    "gpt2-without-prefix": lambda name: hugging_face(name, 4, gpt_2, change=without_prefix),
    "gpt2-pickle": lambda name: hugging_face(name, 5, gpt_2, change=as_pickle),
    "gpt2-pickles": lambda name: hugging_face(
        name, 7, gpt_2, change=as_pickles, n_inner=24, layer_norm_epsilon=0.01),
    "llama": lambda name: hugging_face(
        name, 8, llama, num_key_value_heads=2, rms_norm_eps=0.01,
        rope_parameters={"rope_type": "default", "rope_theta": 100.0}),
    "llama-tied-sharded-bf16": lambda name: hugging_face(
        name, 9, llama, torch.bfloat16, "6KB", num_key_value_heads=1, tie_word_embeddings=True),
    "llama-biases-f16": lambda name: hugging_face(
        name, 13, llama, torch.float16, change=as_version_4, attention_bias=True),
    "nanogpt": lambda _: nano_gpt(),
    "lstm": lambda name: recurrent(name, 10, torch.nn.LSTM, 12, 2, "state_dict"),
    "gru-one-hot": lambda name: recurrent(name, 11, torch.nn.GRU, None, 1, "dictionary"),
    "rnn-whole": lambda name: recurrent(name, 12, torch.nn.RNN, WIDTH, 1, "module"),
}


def main():
    for name in sys.argv[1:] or CASES:
        CASES[name](name)


if __name__ == "__main__":
    main()
