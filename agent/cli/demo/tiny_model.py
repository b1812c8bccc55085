"""Writes a language model of a few hundred kilobytes with random weights, which llama.cpp can run.

Its text is meaningless but readable, and comes from the real server in the real wire formats. The
vocabulary has some plain words, and the 256 byte tokens so that any prompt can be tokenized.

Dimension 0 of every token's embedding has the same large value. No layer writes to it, and the
final norm scales it to an almost constant value. The output matrix's column for this dimension
therefore acts as one bias per token: words are likely, raw bytes unlikely, and the end of the text
likely only if requested (`stops`).
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from provider_agent.agent.cli.demo.extra import require_extra

if TYPE_CHECKING:
    import gguf
    import numpy as np
    from numpy.typing import NDArray

_WORDS: Final = (
    "the a of to and in is it on as for with was that this by at from or be one two three red "
    "blue green small large quick slow river stone light night tree bird cloud house road sea "
    "wind time day year word line code test job node queue agent model server token stream"
)
_MARKS: Final = (".", ",", "!", "?", "\n", ":", "-")
_WORD_START: Final = "\u2581"  # SentencePiece's mark for a space before a word

_DIMENSIONS: Final = 64
_LAYERS: Final = 2
_HEADS: Final = 4
_FEED_FORWARD: Final = 128
_NORM_EPSILON: Final = 1e-5
_CARRIER: Final = 4.0
"""The value of dimension 0, relative to the norm of the others."""
_CARRIED: Final = 0.95
"""The approximate share of dimension 0 in the norm of the vector after the last layer."""

_BIAS: Final = {"word": 0.0, "mark": -2.0, "space": -4.0, "byte": -14.0, "never": -60.0}
_END_BIAS: Final = -30.0
"""Practically never: responses are as long as `max_tokens`."""
_END_BIAS_STOPPING: Final = 0.0
"""As likely as one word: responses end after some dozens of tokens."""

_CHAT_TEMPLATE: Final = (
    "{%- for m in messages -%}<|{{ m['role'] }}|>\n{{ m['content'] }}</s>\n{%- endfor -%}"
    "{%- if add_generation_prompt -%}<|assistant|>\n{%- endif -%}"
)


def write_tiny_model(
    path: Path, *, seed: int = 1, stops: bool = False, context_tokens: int = 2048
) -> None:
    """Write the model to `path` as a GGUF file, about 250 kB.

    Args:
        path: the file; replaced if it exists.
        seed: seed of the weights; the same seed gives the same bytes.
        stops: whether responses end by themselves; otherwise only `max_tokens` ends them.
        context_tokens: the context window in the model's metadata.

    Raises:
        DemoExtraMissing: `gguf` or `numpy` is not installed.
        OSError: the file cannot be written.
    """
    require_extra("gguf", "numpy")
    import gguf

    tokens = list(_vocabulary())
    writer = gguf.GGUFWriter(path, "llama")
    _add_header(writer, context_tokens, len(tokens))
    _add_tokenizer(writer, tokens)
    end_bias = _END_BIAS_STOPPING if stops else _END_BIAS
    for name, weights in _tensors(seed, [_BIAS.get(kind, end_bias) for _, kind in tokens]):
        writer.add_tensor(name, weights)
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()


def _vocabulary() -> Iterator[tuple[str, str]]:
    """Yield all tokens in order, each with the category that determines its bias."""
    yield "<unk>", "never"
    yield "<s>", "never"
    yield "</s>", "end"
    for byte in range(256):
        yield f"<0x{byte:02X}>", "byte"
    yield _WORD_START, "space"
    for word in _WORDS.split():
        yield _WORD_START + word, "word"
    for mark in _MARKS:
        yield mark, "mark"


def _add_header(writer: "gguf.GGUFWriter", context_tokens: int, vocabulary: int) -> None:
    import gguf

    writer.add_name("tiny-random")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_context_length(context_tokens)
    writer.add_vocab_size(vocabulary)
    writer.add_embedding_length(_DIMENSIONS)
    writer.add_block_count(_LAYERS)
    writer.add_feed_forward_length(_FEED_FORWARD)
    writer.add_head_count(_HEADS)
    writer.add_head_count_kv(_HEADS)
    writer.add_rope_dimension_count(_DIMENSIONS // _HEADS)
    writer.add_layer_norm_rms_eps(_NORM_EPSILON)


def _add_tokenizer(writer: "gguf.GGUFWriter", tokens: list[tuple[str, str]]) -> None:
    import gguf

    special = {"<unk>": gguf.TokenType.UNKNOWN, "<s>": gguf.TokenType.CONTROL}
    special["</s>"] = gguf.TokenType.CONTROL
    of_category = {"byte": gguf.TokenType.BYTE}
    normal = gguf.TokenType.NORMAL
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([text for text, _ in tokens])
    writer.add_token_scores([-1.0 if category == "word" else 0.0 for _, category in tokens])
    writer.add_token_types(
        [int(special.get(text, of_category.get(category, normal))) for text, category in tokens]
    )
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    writer.add_chat_template(_CHAT_TEMPLATE)


def _tensors(seed: int, biases: list[float]) -> Iterator[tuple[str, "NDArray[np.generic]"]]:
    """Yield all weight matrices with their names; `biases` has one value per token."""
    import numpy as np

    random = np.random.default_rng(seed)

    def random_matrix(rows: int, columns: int) -> "NDArray[np.float32]":
        return random.standard_normal((rows, columns)).astype(np.float32)

    size = float(np.sqrt(_DIMENSIONS))
    norm = np.ones(_DIMENSIONS, dtype=np.float32)
    embedding = random_matrix(len(biases), _DIMENSIONS)
    embedding[:, 0] = _CARRIER * size
    output = random_matrix(len(biases), _DIMENSIONS)
    output[:, 0] = np.array(biases, dtype=np.float32) / (size * _CARRIED)
    yield "token_embd.weight", embedding.astype(np.float16)
    yield "output_norm.weight", norm
    yield "output.weight", output.astype(np.float16)
    shapes = dict.fromkeys(("attn_q", "attn_k", "attn_v", "attn_output"), (_DIMENSIONS,) * 2)
    shapes |= dict.fromkeys(("ffn_gate", "ffn_up"), (_FEED_FORWARD, _DIMENSIONS))
    shapes["ffn_down"] = (_DIMENSIONS, _FEED_FORWARD)
    for layer in range(_LAYERS):
        yield f"blk.{layer}.attn_norm.weight", norm
        yield f"blk.{layer}.ffn_norm.weight", norm
        for name, (rows, columns) in shapes.items():
            weights = random_matrix(rows, columns) / np.float32(np.sqrt(columns))
            if name in ("attn_output", "ffn_down"):
                weights[0, :] = 0  # adds nothing to dimension 0
            else:
                weights[:, 0] = 0  # ignores dimension 0, which would dominate the result
            yield f"blk.{layer}.{name}.weight", weights.astype(np.float16)
