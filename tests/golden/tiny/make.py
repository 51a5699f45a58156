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
EXPERT_KEYS = {"expert_count": EXPERTS, "expert_used_count": USED, "expert_feed_forward_length": F}


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

    def attention(self, il, biases=False, heads_kv=HEADS_KV):
        b = f"blk.{il}"
        shapes = {"q": (HEADS * HEAD_DIM, D), "k": (heads_kv * HEAD_DIM, D), "v": (heads_kv * HEAD_DIM, D)}
        for name, shape in (shapes | {"output": (D, HEADS * HEAD_DIM)}).items():
            self.matrix(f"{b}.attn_{name}", *shape)
            if biases:
                self.bias(f"{b}.attn_{name}", shape[0])

    def ffn(self, il):
        for name, shape in {"gate": (F, D), "up": (F, D), "down": (D, F)}.items():
            self.matrix(f"blk.{il}.ffn_{name}", *shape)

    def shared(self, il, width):
        b = f"blk.{il}"
        for name, shape in {"gate": (width, D), "up": (width, D), "down": (D, width)}.items():
            self.matrix(f"{b}.ffn_{name}_shexp", *shape)

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


def qwen2moe():
    model = Model("qwen2moe-f32", "qwen2moe", **EXPERT_KEYS, expert_shared_feed_forward_length=2 * F)
    model.matrix("output", VOCAB, D)
    for il in range(model.layers):
        model.norms(il, "attn_norm", "ffn_norm")
        model.attention(il)
        for name, width in {"q": HEADS, "k": HEADS_KV, "v": HEADS_KV}.items():
            model.bias(f"blk.{il}.attn_{name}", width * HEAD_DIM)
        model.experts(il)
        model.shared(il, 2 * F)
        model.add(f"blk.{il}.ffn_gate_inp_shexp.weight", model.random.normal(size=D) * D**-0.5)
    return model


def olmoe():
    model = Model("olmoe-f32", "olmoe", **EXPERT_KEYS, attention__head_count_kv=HEADS)
    model.matrix("output", VOCAB, D)
    for il in range(model.layers):
        model.norms(il, "attn_norm", "ffn_norm")
        model.norm(f"blk.{il}.attn_q_norm", HEADS * HEAD_DIM)
        model.norm(f"blk.{il}.attn_k_norm", HEADS * HEAD_DIM)
        model.attention(il, heads_kv=HEADS)
        model.experts(il)
    return model


def deepseek():
    """The first layer is dense."""
    keys = EXPERT_KEYS | {"leading_dense_block_count": 1, "expert_shared_count": 2, "expert_weights_scale": 1.5}
    model = Model("deepseek-f32", "deepseek", **keys)
    model.matrix("output", VOCAB, D)
    for il in range(model.layers):
        model.norms(il, "attn_norm", "ffn_norm")
        model.attention(il)
        if il == 0:
            model.ffn(il)
        else:
            model.experts(il)
            model.shared(il, 2 * F)
    return model


def glm4moe(name, large):
    """The first layer is dense, and half of each head turns. The large one's last layer guesses a token more, and is left out."""
    keys = EXPERT_KEYS | {
        "leading_dense_block_count": 1,
        "expert_shared_count": 1,
        "expert_gating_func": 2,
        "expert_weights_norm": large,
        "expert_weights_scale": 1.5,
        "nextn_predict_layers": int(large),
        "rope__dimension_count": HEAD_DIM // 2,
    }
    model = Model(name, "glm4moe", 3 if large else 2, **keys)
    model.matrix("output", VOCAB, D)
    for il in range(model.layers):
        model.norms(il, "attn_norm", "post_attention_norm")
        model.attention(il)
        for name, width in {"q": HEADS, "k": HEADS_KV, "v": HEADS_KV}.items():
            model.bias(f"blk.{il}.attn_{name}", width * HEAD_DIM)
        if large:
            model.norm(f"blk.{il}.attn_q_norm", HEAD_DIM)
            model.norm(f"blk.{il}.attn_k_norm", HEAD_DIM)
        if il == 0:
            model.ffn(il)
        else:
            model.experts(il)
            model.bias(f"blk.{il}.exp_probs_b", EXPERTS)
            model.shared(il, F)
    if large:
        model.matrix("blk.2.nextn.eh_proj", D, 2 * D)
        model.norms(2, "nextn.enorm", "nextn.hnorm")
    return model


def gpt_oss():
    keys = EXPERT_KEYS | {
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
    yield qwen2moe()
    yield olmoe()
    yield deepseek()
    yield glm4moe("glm4moe-f32", large=True)
    yield glm4moe("glm4moe-plain", large=False)


if __name__ == "__main__":
    vocabulary = gguf.GGUFReader(sys.argv[1])
    for model in models():
        model.write(vocabulary, Path(sys.argv[2]))
