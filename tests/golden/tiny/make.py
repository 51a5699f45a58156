"""Makes tiny models of the families that need more than one kind of layer, key or tensor to show what they do:

    python make.py llama-f32.gguf FOLDER

All weights are F32 and random (seeded by the model's name), so that another program's logits are exact up to f32; the
vocabulary is that of llama-f32.gguf. Needs the packages gguf 0.19 and numpy.
"""

import sys
import zlib
from pathlib import Path

import gguf
import numpy as np

D, F, HEADS, HEADS_KV, HEAD_DIM, VOCAB = 64, 96, 2, 1, 32, 288
EXPERTS, USED = 6, 2


class Model:
    def __init__(self, name, arch, layers=2, **keys):
        self.name, self.arch, self.layers = name, arch, layers
        self.random = np.random.default_rng(zlib.crc32(name.encode()))
        self.keys = {
            "block_count": layers,
            "context_length": 512,
            "embedding_length": D,
            "feed_forward_length": F,
            "attention.head_count": HEADS,
            "attention.head_count_kv": HEADS_KV,
            "attention.key_length": HEAD_DIM,
            "attention.value_length": HEAD_DIM,
            "attention.layer_norm_rms_epsilon": 1e-5,
            "rope.dimension_count": HEAD_DIM,
            "rope.freq_base": 10000.0,
            **{key.replace("__", "."): value for key, value in keys.items()},
        }
        self.tensors = {}
        self.matrix("token_embd", VOCAB, D, size=1.0)
        self.norm("output_norm", D)

    def add(self, name, numbers):
        self.tensors[name] = numbers.astype(np.float32)

    def matrix(self, name, *shape, size=None):
        size = size or shape[-1] ** -0.5
        self.add(f"{name}.weight", self.random.normal(size=shape) * size)

    def norm(self, name, n):
        self.add(f"{name}.weight", 1 + 0.3 * self.random.normal(size=n))

    def bias(self, name, *shape):
        self.add(f"{name}.bias", 0.3 * self.random.normal(size=shape))

    def attention(self, il, biases=False):
        b = f"blk.{il}"
        shapes = {"q": (HEADS * HEAD_DIM, D), "k": (HEADS_KV * HEAD_DIM, D), "v": (HEADS_KV * HEAD_DIM, D)}
        for name, shape in (shapes | {"output": (D, HEADS * HEAD_DIM)}).items():
            self.matrix(f"{b}.attn_{name}", *shape)
            if biases:
                self.bias(f"{b}.attn_{name}", shape[0])

    def ffn(self, il):
        for name, shape in {"gate": (F, D), "up": (F, D), "down": (D, F)}.items():
            self.matrix(f"blk.{il}.ffn_{name}", *shape)

    def experts(self, il, size=1.0, biases=False):
        b = f"blk.{il}"
        self.matrix(f"{b}.ffn_gate_inp", EXPERTS, D)
        if biases:
            self.bias(f"{b}.ffn_gate_inp", EXPERTS)
        for name, shape in {"gate": (EXPERTS, F, D), "up": (EXPERTS, F, D), "down": (EXPERTS, D, F)}.items():
            self.matrix(f"{b}.ffn_{name}_exps", *shape, size=size * shape[-1] ** -0.5)
            if biases:
                self.bias(f"{b}.ffn_{name}_exps", *shape[:2])

    def norms(self, il, *names):
        for name in names:
            self.norm(f"blk.{il}.{name}", D)

    def write(self, vocabulary, folder):
        writer = gguf.GGUFWriter(folder / f"{self.name}.gguf", self.arch)
        writer.add_name(f"tiny-{self.name}")
        for key, value in self.keys.items():
            add = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
            add[type(value)](f"{self.arch}.{key}", value)
        writer.add_vocab_size(VOCAB)
        for field in vocabulary.fields.values():
            if field.name.startswith("tokenizer."):
                kind = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
                writer.add_key_value(field.name, field.contents(), field.types[0], kind)
        for name, numbers in self.tensors.items():
            writer.add_tensor(name, numbers)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


def llama_like(model, ffn=Model.ffn):
    model.matrix("output", VOCAB, D)
    for il in range(model.layers):
        model.norms(il, "attn_norm", "ffn_norm")
        model.attention(il)
        ffn(model, il)
    return model


def llama_freqs():
    model = llama_like(Model("llama-freqs", "llama"))
    model.add("rope_freqs.weight", np.linspace(1.0, 8.0, HEAD_DIM // 2))
    return model


def phi3_long():
    """A context of 512 is beyond the first training's 16: the long factors count."""
    model = Model("phi3-long", "phi3", rope__scaling__original_context_length=16, rope__scaling__attn_factor=1.2)
    model.matrix("output", VOCAB, D)
    model.add("rope_factors_long.weight", np.linspace(1.0, 20.0, HEAD_DIM // 2))
    model.add("rope_factors_short.weight", np.linspace(1.0, 1.5, HEAD_DIM // 2))
    for il in range(model.layers):
        model.norms(il, "attn_norm", "ffn_norm")
        model.matrix(f"blk.{il}.attn_qkv", (HEADS + 2 * HEADS_KV) * HEAD_DIM, D)
        model.matrix(f"blk.{il}.attn_output", D, HEADS * HEAD_DIM)
        model.matrix(f"blk.{il}.ffn_up", 2 * F, D)
        model.matrix(f"blk.{il}.ffn_down", D, F)
    return model


def gemma():
    model = Model("gemma-f32", "gemma")
    for il in range(model.layers):
        model.norms(il, "attn_norm", "ffn_norm")
        model.attention(il)
        model.ffn(il)
    return model


def olmo2(name, layers, **keys):
    model = Model(name, "olmo2", layers, **keys)
    model.matrix("output", VOCAB, D)
    for il in range(layers):
        model.norms(il, "post_attention_norm", "post_ffw_norm")
        model.norm(f"blk.{il}.attn_q_norm", HEADS * HEAD_DIM)
        model.norm(f"blk.{il}.attn_k_norm", HEADS_KV * HEAD_DIM)
        model.attention(il)
        model.ffn(il)
    return model


def granite(name, arch, ffn, **keys):
    keys |= {"attention__scale": 0.1, "embedding_scale": 3.0, "residual_scale": 0.22, "logit_scale": 2.5}
    return llama_like(Model(name, arch, **keys), ffn)


def gpt_oss():
    keys = {
        "expert_count": EXPERTS,
        "expert_used_count": USED,
        "expert_feed_forward_length": F,
        "attention__sliding_window": 8,
        "rope__scaling__type": "yarn",
        "rope__scaling__factor": 32.0,
        "rope__scaling__original_context_length": 128,
    }
    model = Model("gpt-oss-f32", "gpt-oss", **keys)
    model.matrix("output", VOCAB, D)
    for il in range(model.layers):
        model.norms(il, "attn_norm", "post_attention_norm")
        model.attention(il, biases=True)
        model.add(f"blk.{il}.attn_sinks.weight", model.random.normal(size=HEADS))
        # Large enough for the bounds of the activation to count.
        model.experts(il, size=4.0, biases=True)
    return model


def models():
    yarn = {"rope__scaling__type": "yarn", "rope__scaling__factor": 4.0, "rope__scaling__original_context_length": 64}
    yield llama_like(Model("llama-linear", "llama", rope__scaling__type="linear", rope__scaling__factor=4.0))
    yield llama_like(Model("llama-yarn", "llama", **yarn))
    yield llama_freqs()
    yield phi3_long()
    yield gemma()
    yield llama_like(Model("smollm3-f32", "smollm3", 4))
    yield olmo2("olmo2-f32", 1)
    yield olmo2("olmo2-window", 4, attention__sliding_window=8, **yarn)
    yield granite("granite-f32", "granite", Model.ffn)
    yield granite("granitemoe-f32", "granitemoe", Model.experts, expert_count=EXPERTS, expert_used_count=USED)
    yield gpt_oss()


if __name__ == "__main__":
    vocabulary = gguf.GGUFReader(sys.argv[1])
    for model in models():
        model.write(vocabulary, Path(sys.argv[2]))
