"""Writes models with random weights as Hugging Face and Meta publish them, and what they compute.

Usage: make_models.py [NAME ...]; needs the Python packages torch, transformers, safetensors and sentencepiece. Each
folder NAME gets the model as `save_pretrained` writes it and `expected.json`: ids, and the logits of the last one in f32.
"""

import json
import sys
from pathlib import Path

import torch
import transformers
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

HERE = Path(__file__).parent
TEXT = (HERE / "text.txt").read_text()
N_VOCAB = 304
SIZES = dict(
    vocab_size=N_VOCAB, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=128, bos_token_id=0, eos_token_id=0, pad_token_id=0,
)
LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
GPT4O = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
    r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
ROPE3 = dict(
    rope_type="llama3", rope_theta=500000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
    original_max_position_embeddings=16,
)


def split(regex):
    return [pre_tokenizers.Split(Regex(regex), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]


CUTS = {
    "smollm": lambda: [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)],
    "llama3": lambda: split(LLAMA3),
    "qwen2": lambda: split(QWEN2),
    "gpt-4o": lambda: split(GPT4O),
}


def byte_level(folder, cut, ignore_merges=False, template=None):
    """A byte-level tokenizer of its own, trained on the text."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(CUTS[cut]())
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False,
    )
    tokenizer.train_from_iterator([TEXT], trainer)
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<|endoftext|>", eos_token="<|im_end|>", pad_token="<|endoftext|>",
    )
    fast.chat_template = template
    fast.save_pretrained(folder)
    return fast


def sentence_piece(folder, add_dummy_prefix=True):
    """A tokenizer.model of its own, trained on the text."""
    import sentencepiece

    sentencepiece.SentencePieceTrainer.train(
        input=str(HERE / "text.txt"), model_prefix=str(folder / "tokenizer"), vocab_size=N_VOCAB - 4, model_type="bpe",
        byte_fallback=True, character_coverage=0.99, add_dummy_prefix=add_dummy_prefix, unk_id=0, bos_id=1, eos_id=2,
        pad_id=-1, minloglevel=2, hard_vocab_limit=False, split_digits=True, normalization_rule_name="identity",
    )
    (folder / "tokenizer.vocab").unlink()
    return sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))


def randomize(model):
    """Weights of a size that lets every part of the model matter; norms away from 1 and 0."""
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            tensor.copy_(torch.randn_like(tensor) * (0.3 if tensor.dim() < 2 else 0.12))
            # Gemma's norms add the 1 themselves.
            if "norm" in name and "Gemma" not in type(model).__name__:
                tensor.add_(1.0)


def expected(folder, model, encode, text="The first man on the moon was Neil Armstrong in 1969."):
    ids = encode(text)[:24]
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0]
    (folder / "expected.json").write_text(json.dumps({
        "text": text, "tokens": ids, "logits": [round(float(x), 7) for x in logits[-1]],
    }))


def hugging_face(name, config, cut=None, dtype=torch.float16, shards=None, change=None, **tokenizer):
    folder = HERE / name
    folder.mkdir(exist_ok=True)
    torch.manual_seed(sum(name.encode()))
    model = transformers.AutoModelForCausalLM.from_config(config).eval().float()
    randomize(model)
    if change:
        with torch.no_grad():
            change(model)
    # What is compared is what the file holds. Frequencies are not in it, and stay in f32.
    frequencies = {name: buffer.clone() for name, buffer in model.named_buffers()}
    model = model.to(dtype)
    model.save_pretrained(folder, **({"max_shard_size": shards} if shards else {}))
    model = model.float()
    for name, buffer in model.named_buffers():
        buffer.copy_(frequencies[name])
    if cut:
        fast = byte_level(folder, cut, **tokenizer)
        encode = lambda text: fast.encode(text, add_special_tokens=False)
    else:
        spm = sentence_piece(folder, **tokenizer)
        encode = lambda text: [1] + spm.encode(text)
        (folder / "tokenizer_config.json").write_text(json.dumps({
            "bos_token": "<s>", "eos_token": "</s>", "add_bos_token": True,
            "added_tokens_decoder": {str(N_VOCAB - 2): {"content": "<|end|>", "special": True},
                                     str(N_VOCAB - 1): {"content": "▁▁", "special": False}},
        }))
    (folder / "generation_config.json").unlink(missing_ok=True)
    expected(folder, model, encode)


def gpt_oss(name):
    """Experts packed in 4-bit floats: [E, M, K] in blocks of 32, two neighbours a byte, and a power of two for each block."""
    from safetensors.torch import load_file, save_file

    config = T.GptOssConfig(**SIZES, head_dim=16, num_local_experts=4, num_experts_per_tok=2, sliding_window=16,
                            tie_word_embeddings=False)
    levels = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6])
    levels = torch.cat([levels, -levels])
    packed = {}

    def pack(model):
        experts = model.model.layers[0].mlp.experts
        for part in ["gate_up_proj", "down_proj"]:
            tensor = getattr(experts, part)
            n_expert, k, m = tensor.shape
            quants = torch.randint(0, 16, (n_expert, m, k // 32, 32))
            scales = torch.randint(123, 126, (n_expert, m, k // 32), dtype=torch.uint8)
            numbers = levels[quants] * 2.0 ** (scales.float() - 127).unsqueeze(-1)
            tensor.data.copy_(numbers.reshape(n_expert, m, k).transpose(1, 2))
            blocks = (quants[..., 0::2] | quants[..., 1::2] << 4).to(torch.uint8)
            packed[f"model.layers.0.mlp.experts.{part}_blocks"] = blocks.contiguous()
            packed[f"model.layers.0.mlp.experts.{part}_scales"] = scales.contiguous()

    hugging_face(name, config, "gpt-4o", change=pack)
    path = HERE / name / "model.safetensors"
    tensors = {n: t for n, t in load_file(path).items() if not n.endswith(("gate_up_proj", "down_proj"))}
    save_file({**tensors, **packed}, path, {"format": "pt"})


def meta(name, n_parts=2):
    """The first Llama's form: every matrix in slices, one in each checkpoint."""
    folder = HERE / name
    folder.mkdir(exist_ok=True)
    torch.manual_seed(1)
    spm = sentence_piece(folder)
    n_vocab, d, f, n_head = spm.vocab_size(), 32, 64, 4
    config = transformers.LlamaConfig(
        vocab_size=n_vocab, hidden_size=d, intermediate_size=f, num_hidden_layers=1, num_attention_heads=n_head,
        num_key_value_heads=n_head, rms_norm_eps=1e-6, tie_word_embeddings=False, max_position_embeddings=2048,
    )
    model = transformers.LlamaForCausalLM(config).eval().float()
    randomize(model)
    model = model.half().float()
    names = {
        "self_attn.q_proj": ("attention.wq", 0), "self_attn.k_proj": ("attention.wk", 0), "self_attn.v_proj": ("attention.wv", 0),
        "self_attn.o_proj": ("attention.wo", 1), "mlp.gate_proj": ("feed_forward.w1", 0), "mlp.down_proj": ("feed_forward.w2", 1),
        "mlp.up_proj": ("feed_forward.w3", 0), "input_layernorm": ("attention_norm", None),
        "post_attention_layernorm": ("ffn_norm", None), "embed_tokens": ("tok_embeddings", 1), "norm": ("norm", None),
    }
    parts = [{} for _ in range(n_parts)]
    for theirs, tensor in model.state_dict().items():
        if theirs == "lm_head.weight":
            ours, axis = "output", 0
        else:
            core = theirs.removeprefix("model.").removesuffix(".weight")
            block, core = (core.split(".", 2)[:2], core.split(".", 2)[2]) if core.startswith("layers.") else ([], core)
            ours, axis = names[core]
            ours = ".".join([*block, ours])
        if ours.endswith(("wq", "wk")):
            # Pairs that turn together lie side by side here.
            tensor = tensor.view(n_head, 2, d // n_head // 2, d).transpose(1, 2).reshape(d, d)
        pieces = [tensor] * n_parts if axis is None else tensor.chunk(n_parts, axis)
        for part, piece in zip(parts, pieces):
            part[ours + ".weight"] = piece.half().clone()
    for i, part in enumerate(parts):
        part["rope.freqs"] = torch.ones(4)
        torch.save(part, folder / f"consolidated.{i:02}.pth")
    (folder / "params.json").write_text(json.dumps(
        {"dim": d, "multiple_of": 32, "n_heads": n_head, "n_layers": 1, "norm_eps": 1e-6, "vocab_size": -1}))
    expected(folder, model, lambda text: [1] + spm.encode(text))


T = transformers
MODELS = {
    "llama": lambda n: hugging_face(n, T.LlamaConfig(**SIZES, tie_word_embeddings=False, head_dim=16, attention_bias=True), "smollm"),
    "llama3": lambda n: hugging_face(n, T.LlamaConfig(**{**SIZES, "num_hidden_layers": 2}, tie_word_embeddings=True, rope_parameters=ROPE3), "llama3",
                                     ignore_merges=True, dtype=torch.bfloat16, shards="24KB",
                                     template="{% for m in messages %}{{ m.content }}{% endfor %}"),
    "mistral": lambda n: hugging_face(n, T.MistralConfig(**SIZES, sliding_window=None, tie_word_embeddings=False)),
    "mixtral": lambda n: hugging_face(n, T.MixtralConfig(**SIZES, num_local_experts=4, sliding_window=None, tie_word_embeddings=False)),
    "qwen2": lambda n: hugging_face(n, T.Qwen2Config(**SIZES, tie_word_embeddings=True), "qwen2"),
    "qwen3": lambda n: hugging_face(n, T.Qwen3Config(**SIZES, head_dim=16, tie_word_embeddings=True), "qwen2"),
    "qwen3moe": lambda n: hugging_face(n, T.Qwen3MoeConfig(**SIZES, head_dim=16, num_experts=4, num_experts_per_tok=2,
                                                        moe_intermediate_size=32, norm_topk_prob=True), "qwen2"),
    "gemma": lambda n: hugging_face(n, T.GemmaConfig(**SIZES, head_dim=16), add_dummy_prefix=False),
    "gemma2": lambda n: hugging_face(n, T.Gemma2Config(**SIZES, head_dim=16, query_pre_attn_scalar=16, sliding_window=16), add_dummy_prefix=False),
    "gemma3": lambda n: hugging_face(n, T.Gemma3TextConfig(**SIZES, head_dim=16, query_pre_attn_scalar=16, sliding_window=8,
                                                         layer_types=["sliding_attention"]), add_dummy_prefix=False),
    "phi3": lambda n: hugging_face(n, T.Phi3Config(**SIZES, sliding_window=None, original_max_position_embeddings=128)),
    "smollm3": lambda n: hugging_face(n, T.SmolLM3Config(**SIZES, tie_word_embeddings=True), "llama3", ignore_merges=True),
    "olmo2": lambda n: hugging_face(n, T.Olmo2Config(**SIZES, tie_word_embeddings=False), "llama3"),
    "granite": lambda n: hugging_face(n, T.GraniteConfig(**SIZES, attention_multiplier=0.2, embedding_multiplier=3.0, residual_multiplier=0.4,
                                                       logits_scaling=2.0, tie_word_embeddings=True), "smollm"),
    "gpt-oss": gpt_oss,
    "meta": meta,
}

for name in sys.argv[1:] or MODELS:
    MODELS[name](name)
