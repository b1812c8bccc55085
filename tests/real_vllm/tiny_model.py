"""A language model of about half a megabyte with random weights, in the layout that vLLM loads.

The vocabulary consists of some English words and the 256 byte values, so every prompt can be
tokenized. The model generates random words, until `max_tokens` is reached.

Dimension 0 of every embedding has the same large value, and no layer writes to it. The output
matrix's column for this dimension therefore acts as one bias per token. The biases make words
likely, and single bytes and the end token practically impossible.

This module writes the file formats (`tokenizer.json`, safetensors) itself, without the packages
that usually write them.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

CONTEXT_TOKENS: Final = 16384
"""The context window. A response of this length takes at least half a minute, so a test can cancel
it long before it would end.
"""

_WORDS: Final = (
    "the a of to and in is it on as for with was that this by at from or be one two three red "
    "blue green small large quick slow river stone light night tree bird cloud house road sea "
    "wind time day year word line code test job node queue agent model server token stream"
)
_SPECIAL: Final = ("<unk>", "<s>", "</s>")
_BEGIN_ID: Final = 1
_END_ID: Final = 2

_DIMENSIONS: Final = 64
_HEADS: Final = 2  # of 32 dimensions, the smallest size that vLLM's CPU attention supports
_LAYERS: Final = 2
_FEED_FORWARD: Final = 128
_CARRIER: Final = 4.0
"""The constant dimension is about this many times the L2 norm of the other dimensions."""
_CARRIED: Final = 0.95
"""After the last RMSNorm, the constant dimension is about this share of the vector's L2 norm."""
_WORD_BIAS: Final = 0.0
_BYTE_BIAS: Final = -14.0
_SPECIAL_BIAS: Final = -60.0

_CHAT_TEMPLATE: Final = (
    "{%- for m in messages -%}<|{{ m['role'] }}|>\n"
    "{%- if m['content'] is string -%}{{ m['content'] }}"
    "{%- else -%}{%- for part in m['content'] -%}{{ part['text'] }}{%- endfor -%}{%- endif -%}"
    "</s>\n{%- endfor -%}"
    "{%- if add_generation_prompt -%}<|assistant|>\n{%- endif -%}"
)


def write_tiny_model(folder: Path, *, seed: int = 1) -> None:
    """Write the model's files into `folder`, which is created if it does not exist.

    Args:
        folder: the target; existing files of the same names are replaced.
        seed: seed of the random weights; the same seed produces identical files.

    Raises:
        OSError: a file cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = [
        *_SPECIAL,
        *_byte_symbols(),
        *(_byte_symbols()[32] + word for word in _WORDS.split()),
    ]
    files: dict[str, object] = {
        "config.json": _config(len(vocabulary)),
        "tokenizer.json": _tokenizer(vocabulary),
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": "<s>",
            "eos_token": "</s>",
            "unk_token": "<unk>",
            "model_max_length": CONTEXT_TOKENS,
            "clean_up_tokenization_spaces": False,
            "chat_template": _CHAT_TEMPLATE,
        },
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, indent=1), encoding="utf-8")
    weights = dict(_weights(seed, len(vocabulary)))
    (folder / "model.safetensors").write_bytes(_safetensors(weights))


def _byte_symbols() -> list[str]:
    """Return the symbol of each byte in a byte-level vocabulary.

    A printable byte is its own symbol; other bytes have symbols from U+0100 upwards.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    substitutes = iter(range(0x100, 0x200))
    return [chr(byte) if byte in printable else chr(next(substitutes)) for byte in range(256)]


def _tokenizer(vocabulary: list[str]) -> dict[str, object]:
    """Return `tokenizer.json`: a word of the vocabulary is one token; other text has one per byte.

    `ignore_merges` makes the tokenizer find whole words without merge rules.
    """
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    return {
        "version": "1.0",
        "added_tokens": [
            {"id": number, "content": text, "special": True, **flags}
            for number, text in enumerate(_SPECIAL)
        ],
        "pre_tokenizer": {**byte_level, "use_regex": True},
        "decoder": {**byte_level, "use_regex": True},
        "model": {
            "type": "BPE",
            "vocab": {text: number for number, text in enumerate(vocabulary)},
            "merges": [],
            "ignore_merges": True,
        },
    }


def _config(vocabulary: int) -> dict[str, object]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "torch_dtype": "float32",
        "vocab_size": vocabulary,
        "bos_token_id": _BEGIN_ID,
        "eos_token_id": _END_ID,
        "max_position_embeddings": CONTEXT_TOKENS,
        "hidden_size": _DIMENSIONS,
        "hidden_act": "silu",
        "intermediate_size": _FEED_FORWARD,
        "num_hidden_layers": _LAYERS,
        "num_attention_heads": _HEADS,
        "num_key_value_heads": _HEADS,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
    }


def _weights(seed: int, vocabulary: int) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Yield the name and values of every weight matrix."""
    random = np.random.default_rng(seed)

    def random_matrix(rows: int, columns: int) -> NDArray[np.float32]:
        return random.standard_normal((rows, columns)).astype(np.float32)

    size = float(np.sqrt(_DIMENSIONS))
    norm = np.ones(_DIMENSIONS, dtype=np.float32)
    biases = np.full(vocabulary, _WORD_BIAS, dtype=np.float32)
    biases[: len(_SPECIAL) + 256] = _BYTE_BIAS
    biases[: len(_SPECIAL)] = _SPECIAL_BIAS
    embedding, output = (
        random_matrix(vocabulary, _DIMENSIONS),
        random_matrix(vocabulary, _DIMENSIONS),
    )
    embedding[:, 0] = _CARRIER * size
    output[:, 0] = biases / (size * _CARRIED)
    yield "model.embed_tokens.weight", embedding
    yield "model.norm.weight", norm
    yield "lm_head.weight", output
    square = (_DIMENSIONS, _DIMENSIONS)
    shapes = {f"self_attn.{name}_proj": square for name in "qkvo"}
    shapes |= dict.fromkeys(("mlp.gate_proj", "mlp.up_proj"), (_FEED_FORWARD, _DIMENSIONS))
    shapes["mlp.down_proj"] = (_DIMENSIONS, _FEED_FORWARD)
    for layer in range(_LAYERS):
        yield f"model.layers.{layer}.input_layernorm.weight", norm
        yield f"model.layers.{layer}.post_attention_layernorm.weight", norm
        for name, (rows, columns) in shapes.items():
            weights = random_matrix(rows, columns) / np.float32(np.sqrt(columns))
            if name in ("self_attn.o_proj", "mlp.down_proj"):
                weights[0, :] = 0  # does not write to the constant dimension
            else:
                weights[:, 0] = 0  # ignores the constant dimension, which would dominate the sum
            yield f"model.layers.{layer}.{name}.weight", weights


def _safetensors(weights: dict[str, NDArray[np.float32]]) -> bytes:
    """Encode a safetensors file: the length of the header, the JSON header, then the matrices.

    The header contains each matrix's type, shape and position.
    """
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    data = bytearray()
    for name, matrix in weights.items():
        begin = len(data)
        data += matrix.astype("<f4").tobytes()
        offsets = [begin, len(data)]
        header[name] = {"dtype": "F32", "shape": list(matrix.shape), "data_offsets": offsets}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # the matrices must start at a multiple of eight bytes
    return len(text).to_bytes(8, "little") + text + data
