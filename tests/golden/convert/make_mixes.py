"""Writes mixes.json: the formats that llama.cpp's llama-quantize gives to the tensors of models of several shapes.

Usage: make_mixes.py LLAMA_QUANTIZE FOLDER, a command and a folder for the files that it reads; needs the Python package
`gguf`. The models have the names and the row lengths of real ones but few rows, since only those decide.
"""

import json
import re
import shlex
import struct
import subprocess
import sys
from collections import Counter
from pathlib import Path

import gguf
import numpy as np

MIXES = [
    "F16", "BF16", "F32", "Q8_0", "Q6_K", "Q5_K_M", "Q5_K_S", "Q5_1", "Q5_0", "Q4_K_M", "Q4_K_S", "Q4_1", "Q4_0", "IQ4_NL",
    "IQ4_XS", "MXFP4_MOE", "Q3_K_L", "Q3_K_M", "Q3_K_S", "Q2_K",
]
# arch, layers, heads, heads of keys and values, experts, D, F, whether the embedding table is the output matrix, too
MODELS = {
    "grouped": ("llama", 32, 8, 2, 0, 256, 512, False),
    "ungrouped": ("llama", 22, 8, 8, 0, 256, 512, False),
    "odd_rows": ("llama", 30, 9, 3, 0, 576, 1536, True),
    "large": ("llama", 80, 64, 8, 0, 256, 512, False),
    "eight_experts": ("llama", 32, 8, 2, 8, 256, 512, False),
    "many_experts": ("qwen3moe", 48, 8, 2, 16, 256, 256, True),
    "fused": ("phi3", 32, 8, 8, 0, 256, 512, False),
}
ROWS = 2


def tensors(arch, n_layer, n_expert, d, f, tied):
    yield "token_embd.weight", (ROWS, d)
    yield "output_norm.weight", (d,)
    if not tied:
        yield "output.weight", (ROWS, d)
    for il in range(n_layer):
        block = f"blk.{il}."
        yield block + "attn_norm.weight", (d,)
        yield block + "ffn_norm.weight", (d,)
        yield block + "attn_output.weight", (ROWS, d)
        for name in ["attn_qkv"] if arch == "phi3" else ["attn_q", "attn_k", "attn_v"]:
            yield f"{block}{name}.weight", (ROWS, d)
        if n_expert:
            yield block + "ffn_gate_inp.weight", (n_expert, d)
        experts, suffix = ((n_expert,), "_exps") if n_expert else ((), "")
        for name, k in [("ffn_gate", d), ("ffn_up", d), ("ffn_down", f)]:
            if arch != "phi3" or name != "ffn_gate":
                yield f"{block}{name}{suffix}.weight", (*experts, ROWS, k)


def write(path, arch, n_layer, n_head, n_head_kv, n_expert, d, f, tied):
    w = gguf.GGUFWriter(path, arch)
    w.add_block_count(n_layer)
    w.add_context_length(512)
    w.add_embedding_length(d)
    w.add_feed_forward_length(f)
    w.add_head_count(n_head)
    w.add_head_count_kv(n_head_kv)
    w.add_layer_norm_rms_eps(1e-5)
    w.add_rope_dimension_count(d // n_head)
    w.add_file_type(1)
    if n_expert:
        w.add_expert_count(n_expert)
        w.add_expert_used_count(2)
        w.add_expert_feed_forward_length(f)
    for name, shape in tensors(arch, n_layer, n_expert, d, f, tied):
        matrix = len(shape) > 1 and "gate_inp" not in name
        w.add_tensor(name, np.zeros(shape, np.float16 if matrix else np.float32))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def write_imatrix(path, arch, n_layer, n_expert, d, f, tied):
    """The older form of llama.cpp's file: for each matrix a name, a number of calls, and sums by column."""
    entries = [(n, s) for n, s in tensors(arch, n_layer, n_expert, d, f, tied) if len(s) > 1]
    with open(path, "wb") as file:
        file.write(struct.pack("<i", len(entries)))
        for name, shape in entries:
            values = np.ones(shape[-1] * (shape[0] if len(shape) > 2 else 1), np.float32)
            file.write(struct.pack("<i", len(name)) + name.encode() + struct.pack("<ii", 1, len(values)))
            file.write(values.tobytes())


def formats(command, path, mix, options):
    run = subprocess.run([*command, "--dry-run", *options, str(path), mix], capture_output=True, text=True)
    found = {}
    for line in (run.stdout + run.stderr).splitlines():
        match = re.match(r"\[ *\d+/ *\d+\] (\S+) .*type = +(\w+), size = .*?(?:\((\w+)\))?$", line)
        if match:
            found[match[1]] = (match[3] or match[2]).replace("_k", "_K").upper()
    assert found, run.stderr
    return found


def main():
    command, folder = shlex.split(sys.argv[1]), Path(sys.argv[2])
    models = {}
    for name, (arch, n_layer, n_head, n_head_kv, n_expert, d, f, tied) in MODELS.items():
        path, imatrix = folder / f"{name}.gguf", folder / f"{name}.dat"
        write(path, arch, n_layer, n_head, n_head_kv, n_expert, d, f, tied)
        write_imatrix(imatrix, arch, n_layer, n_expert, d, f, tied)
        model = {"metadata": {
            "general.architecture": arch, f"{arch}.block_count": n_layer, f"{arch}.attention.head_count": n_head,
            f"{arch}.attention.head_count_kv": n_head_kv, f"{arch}.expert_count": n_expert,
        }, "tensors": {n: list(s) for n, s in tensors(arch, 1, n_expert, d, f, tied)}, "mixes": {}, "with_imatrix": {}}
        for kind, options in [("mixes", []), ("with_imatrix", ["--imatrix", str(imatrix)])]:
            for mix in MIXES:
                found = formats(command, path, mix, options)
                if kind == "with_imatrix" and found == formats(command, path, mix, []):
                    continue
                most = Counter(found.values()).most_common(1)[0][0]
                others = {}
                for tensor, fmt in found.items():
                    if fmt != most and fmt != "F32":
                        *block, name = tensor.removesuffix(".weight").rsplit(".", 1)
                        layers = others.setdefault(fmt, {}).setdefault(name, [])
                        layers.extend(int(b.removeprefix("blk.")) for b in block)
                model[kind][mix] = {"most": most, **others}
        models[name] = model
    text = json.dumps(models, separators=(",", ":")).replace('},"', '},\n"')
    Path(__file__).with_name("mixes.json").write_text(text + "\n")


main()
