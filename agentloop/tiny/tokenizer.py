"""The tiny model's tokenizer: frequent words are one token each, everything else falls apart into bytes.

There are no merges to learn: the vocabulary is Gemma's special tokens, the fences of the tool-call grammar, the 256 bytes
and the most frequent chunks of the texts it is built from. Digits are always single, so that numbers can be copied.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from agentloop.model_directory import chat_template

PAD, EOS, BOS, UNK = "<pad>", "<eos>", "<bos>", "<unk>"
START_OF_TURN, END_OF_TURN = "<start_of_turn>", "<end_of_turn>"
SPECIAL_TOKENS = (PAD, EOS, BOS, UNK, START_OF_TURN, END_OF_TURN)
"""In this order their ids are 0..5; the first four are those of the real Gemma tokenizer."""
VOCABULARY = 448
"""Tokens of the shipped model's tokenizer."""
FENCES = ("```tool_code\n", "```tool_output\n", "```")

_CHUNK = r"""(?:user|model)\n|Answer: |[a-z_]+\("|"\)\n|\d| ?[A-Za-z_]+| ?[^\sA-Za-z_0-9]|\s"""
"""A turn's role with its newline, what precedes an answer, the start and end of a call, a digit, a word, a sign."""


def build_tokenizer(texts: Iterable[str], vocabulary: int = VOCABULARY) -> PreTrainedTokenizerFast:
    """A tokenizer of exactly `vocabulary` tokens; the same texts give the same tokenizer.

    Any UTF-8 text is encodable and decodes to itself. Raises ValueError if `vocabulary` has no room for the bytes.
    """
    pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_CHUNK), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    counts = Counter(chunk for text in texts for chunk, _ in pre_tokenizer.pre_tokenize_str(_without_fences(text)))
    words = sorted((chunk for chunk in counts if len(chunk) > 1), key=lambda chunk: (-counts[chunk], chunk))
    fixed = [*SPECIAL_TOKENS, *FENCES, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    if len(fixed) > vocabulary:
        raise ValueError(f"a vocabulary of {vocabulary} has no room for the {len(fixed)} fixed tokens")
    tokens = [*fixed, *words][:vocabulary]
    # Room that the texts do not fill stays reserved: the size, and with it every shape, does not depend on them.
    tokens += [f"<unused{index}>" for index in range(vocabulary - len(tokens))]

    # ignore_merges: a chunk that is in the vocabulary is one token; without merges any other chunk is its bytes.
    tokenizer = Tokenizer(models.BPE({token: index for index, token in enumerate(tokens)}, [], ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in FENCES])
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=EOS,
        bos_token=BOS,
        unk_token=UNK,
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
    )
    wrapped.chat_template = chat_template.GEMMA
    return wrapped


def special_ids(tokenizer: PreTrainedTokenizerFast) -> dict[str, int | list[int]]:
    """The ids of special tokens, as a model's configuration calls them."""
    pad, bos, eos, end = (tokenizer.convert_tokens_to_ids(token) for token in (PAD, BOS, EOS, END_OF_TURN))
    return {"pad_token_id": pad, "bos_token_id": bos, "eos_token_id": [eos, end]}


def _without_fences(text: str) -> str:
    for fence in FENCES:
        text = text.replace(fence, "\n")
    return text
