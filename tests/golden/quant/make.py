"""Makes the golden data of the quant formats with ggml's own Python package: pip install gguf==0.19.0, then run this here.

FORMAT.blocks     blocks with random quants; scales include zeros, denormals, the largest halves, both signs
FORMAT.f32        what gguf.quants.dequantize makes of them, f32
source.f32        numbers with outliers, tiny and huge blocks, blocks of one value and of zeros
FORMAT.quantized  what gguf.quants.quantize makes of source.f32, if it does
"""

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize, quantize

# Where a block has halves: the byte offsets of its scales.
SCALES = {
    "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0],
    "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208],
    "Q2_K": [80, 82], "Q3_K": [108], "IQ4_NL": [0], "IQ4_XS": [0], "MXFP4": [],
}  # fmt: skip
HALVES = [0x0000, 0x8000, 0x0001, 0x8001, 0x03FF, 0x83FF, 0x0400, 0x3C00, 0xBC00, 0x7BFF, 0xFBFF, 0x1234]

rng = np.random.default_rng(2026)


def finite_halves(n):
    bits = rng.integers(0, 1 << 16, n, dtype=np.uint16)
    return np.where((bits & 0x7C00) == 0x7C00, bits & 0x83FF, bits)


def blocks(name):
    if name == "F32":
        special = np.array([0.0, -0.0, 1e-45, -1e-40, 3.4e38, np.inf], dtype=np.float32)
        return np.concatenate([special, rng.standard_normal(250).astype(np.float32)]).view(np.uint8)
    if name == "F16":
        return np.concatenate([np.array(HALVES + [0x7C00, 0xFC00], dtype=np.uint16), finite_halves(242)]).view(np.uint8)
    if name == "BF16":
        wide = rng.standard_normal(256).astype(np.float32) * np.float32(10.0) ** rng.integers(-38, 38, 256)
        return (wide.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16).view(np.uint8)
    length, size = GGML_QUANT_SIZES[GGMLQuantizationType[name]]
    n = 36 if length == 32 else 12
    made = rng.integers(0, 256, (n, size), dtype=np.uint8)
    for i, at in enumerate(SCALES[name]):
        scales = np.concatenate([np.roll(HALVES, 5 * i).astype(np.uint16), finite_halves(n - len(HALVES))])
        made[:, at : at + 2] = scales.view(np.uint8).reshape(n, 2)
    return made.ravel()


source = rng.standard_normal((40, 32)).astype(np.float32) * np.float32(0.02)
source[1] *= 1e3
source[2] *= 1e-6
source[3] = 0
source[4] = 0.25
source[5] = -0.25
source[6] = np.abs(source[6])
source[7] = -np.abs(source[7])
source[8::4, 17] *= 30
source[9] = np.arange(32, dtype=np.float32) - 16
source.tofile("source.f32")

# In the order in which they were added: random numbers are drawn one after the other.
names = ["F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K"]
for name in names + ["Q2_K", "Q3_K", "IQ4_NL", "IQ4_XS", "MXFP4"]:
    made = blocks(name)
    made.tofile(f"{name}.blocks")
    dequantize(made.reshape(1, -1), GGMLQuantizationType[name]).astype(np.float32).tofile(f"{name}.f32")
    if name in ["F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "MXFP4"]:
        quantize(source.reshape(1, -1), GGMLQuantizationType[name]).tofile(f"{name}.quantized")
