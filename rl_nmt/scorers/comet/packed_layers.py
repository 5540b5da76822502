"""The layers of XLM-RoBERTa over concatenated sequences: linear layers compute no padding tokens.

Linear layers, norms and activations see one matrix (T, H) of real tokens; only attention needs to know where
a sequence begins: it is one call of a kernel that takes the boundaries (varlen.py), or SDPA over groups of similar
length. Same numbers as transformers' own forward up to rounding (tests: 1e-5 on scores). Covers XLM-RoBERTa / InfoXLM
(norm after each block) and XLM-RoBERTa-XL (norm before), which is every encoder of the published COMET-22, COMETKiwi
and XCOMET checkpoints.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from rl_nmt.models.linears import Plain, Prepacked
from rl_nmt.scorers.comet.varlen import Kernel

ENCODERS = ("XLMRobertaModel", "XLMRobertaXLModel")
CPU_GROUP = 16  # most sequences in one attention call on a CPU; on a GPU kernel launches cost more than padding
CPU_FILL = 0.9  # least share of a group's positions that are not padding


def supported(model: torch.nn.Module) -> bool:
    """Whether this module reproduces the layers of this transformers encoder exactly."""
    config = model.config
    return (
        type(model).__name__ in ENCODERS
        and config.hidden_act == "gelu"
        and getattr(config, "position_embedding_type", "absolute") == "absolute"
        and not config.is_decoder
    )


@dataclass
class Group:
    """Sequences in one attention call: tokens `first` to `last` of the pack.

    `gather` (n, L) and `mask` (n, 1, 1, L) arrange unequal lengths in a padded matrix, `back` (tokens,) selects the
    real positions from it again; all three are None if the n sequences have equal length.
    """

    first: int
    last: int
    rows: int
    longest: int
    gather: torch.Tensor | None = None
    mask: torch.Tensor | None = None
    back: torch.Tensor | None = None


class Pack:
    """N concatenated sequences of token ids.

    ids, positions, sequence (T,): token, position id, number of its sequence; starts (N,): first tokens. Attention
    reads `groups`, or else bounds (N+1,): where sequences begin and end; first (N+1,): the same for one token each.
    """

    def __init__(self, sequences: Sequence[Sequence[int]], pad_id: int, device: torch.device, grouped: bool = True):
        self.lengths = [len(s) for s in sequences]
        flat = torch.tensor([token for s in sequences for token in s])
        lengths = torch.tensor(self.lengths)
        sequence = torch.repeat_interleave(torch.arange(len(sequences)), lengths)
        starts = lengths.cumsum(0) - lengths
        real = flat.ne(pad_id).long()  # a literal <pad> in a text gets no position of its own
        counted = real.cumsum(0)
        places = (counted - (counted - real)[starts][sequence]) * real + pad_id
        self.ids, self.positions, self.sequence, self.starts = (t.to(device) for t in (flat, places, sequence, starts))
        self.groups = list(self._group(device)) if grouped else []
        self.padded = sum(group.rows * group.longest for group in self.groups) if grouped else len(flat)
        if not grouped:
            ends, self.longest = F.pad(lengths.cumsum(0), (1, 0)), max(self.lengths)
            self.bounds, self.first = (t.to(device, torch.int32) for t in (ends, torch.arange(len(ends))))

    def _group(self, device: torch.device) -> Iterator[Group]:
        """Yield groups of neighbours of similar length; the caller has sorted the sequences by length."""
        first, begin, n = 0, 0, len(self.lengths)
        while first < n:
            last, tokens = first, 0
            longest = self.lengths[first]
            while last < n and self._fits(tokens + self.lengths[last], last + 1 - first, longest, device):
                tokens += self.lengths[last]
                last += 1
            group = Group(begin, begin + tokens, last - first, longest)
            lengths = torch.tensor(self.lengths[first:last])
            if lengths.min() < longest:
                column = torch.arange(longest)
                mask = column < lengths[:, None]  # (n, L)
                group.gather = ((begin + lengths.cumsum(0) - lengths)[:, None] + column * mask).to(device)
                group.mask = mask[:, None, None].to(device)
                group.back = mask.flatten().nonzero()[:, 0].to(device)
            yield group
            first, begin = last, begin + tokens

    @staticmethod
    def _fits(tokens: int, rows: int, longest: int, device: torch.device) -> bool:
        return device.type != "cpu" or rows == 1 or (rows <= CPU_GROUP and tokens >= CPU_FILL * rows * longest)


class PackedEncoder:
    """Hidden states of a transformers encoder, layer by layer, over a `Pack`.

    Args:
        model: an XLMRobertaModel or XLMRobertaXLModel for which `supported` holds; its weights are shared.
        top: index of the last hidden state wanted (0: the embeddings); layers above it are never run.
        first_only: return only each sequence's first token of the top layer.
        linears: "torch" or "prepacked".
        dtype: what linears and attention compute in; norms and the residual stream stay float32.
        varlen: the kernel of attention; None for SDPA over groups.
    """

    def __init__(
        self, model: Any, top: int, first_only: bool, linears: str, dtype: torch.dtype, varlen: Kernel | None = None
    ):
        self.embeddings, self.dtype, self.varlen = model.embeddings, dtype, varlen
        self.prenorm = type(model).__name__ == "XLMRobertaXLModel"
        self.heads = model.config.num_attention_heads
        self.final_norm = model.encoder.LayerNorm if self.prenorm and top == len(model.encoder.layer) else None
        kind = Prepacked if linears == "prepacked" else Plain
        self.layers = [
            _Layer(layer, kind, dtype, self.prenorm, first_only=first_only and i == top - 1)
            for i, layer in enumerate(model.encoder.layer[:top])
        ]

    def pack(self, sequences: Sequence[Sequence[int]]) -> Pack:
        """Concatenate sequences, given longest first, on the encoder's device."""
        table = self.embeddings.word_embeddings
        return Pack(sequences, table.padding_idx, table.weight.device, grouped=self.varlen is None)

    def hidden_states(self, pack: Pack) -> Iterator[torch.Tensor]:
        """Yield hidden states 0 … top, each (T, H) float32; the top one is (N, H) with `first_only`."""
        tables = self.embeddings
        hidden = tables.word_embeddings(pack.ids).float()
        hidden = hidden + tables.token_type_embeddings.weight[0] + tables.position_embeddings(pack.positions)
        hidden = hidden if self.prenorm else tables.LayerNorm(hidden)
        for layer in self.layers:
            yield hidden
            hidden = self._layer(layer, hidden, pack)
        yield hidden if self.final_norm is None else self.final_norm(hidden)

    def _layer(self, layer: _Layer, hidden: torch.Tensor, pack: Pack) -> torch.Tensor:
        x = (layer.norm1(hidden) if self.prenorm else hidden).to(self.dtype)
        if layer.first_only:
            mixed = self._attend_first(layer.query(x[pack.starts]), layer.key_value(x), pack)
            hidden = hidden[pack.starts]
        else:
            mixed = self._attend(layer.query_key_value(x), pack)
        hidden = hidden + layer.out(mixed)
        if not self.prenorm:
            hidden = layer.norm1(hidden)
        x = layer.norm2(hidden) if self.prenorm else hidden
        hidden = hidden + layer.down(layer.up(x.to(self.dtype)))
        return hidden if self.prenorm else layer.norm2(hidden)

    def _attend(self, joined: torch.Tensor, pack: Pack) -> torch.Tensor:
        """Compute self-attention within each sequence: concatenated queries, keys and values (T, 3H) → (T, H)."""
        if self.varlen is not None:
            query, key, value = joined.view(len(joined), 3, self.heads, -1).unbind(1)
            return self.varlen(query, key, value, pack.bounds, pack.bounds, pack.longest, pack.longest).flatten(1)
        out = joined.new_empty(joined.shape[0], joined.shape[1] // 3)
        for g in pack.groups:
            query, key, value = self._lay_out(joined, g, 3)
            mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=g.mask)
            flat = mixed.transpose(1, 2).reshape(g.rows * g.longest, -1)
            out[g.first : g.last] = flat if g.back is None else flat[g.back]
        return out

    def _attend_first(self, query: torch.Tensor, joined: torch.Tensor, pack: Pack) -> torch.Tensor:
        """Compute attention of each sequence's first token: query (N, H) and keys, values (T, 2H) → (N, H)."""
        if self.varlen is not None:
            key, value = joined.view(len(joined), 2, self.heads, -1).unbind(1)
            query = query.view(len(query), self.heads, -1)
            return self.varlen(query, key, value, pack.first, pack.bounds, 1, pack.longest).flatten(1)
        out = []
        for g, first in zip(pack.groups, query.split([g.rows for g in pack.groups]), strict=True):
            one = first.view(g.rows, 1, self.heads, -1).transpose(1, 2)
            key, value = self._lay_out(joined, g, 2)
            mixed = F.scaled_dot_product_attention(one, key, value, attn_mask=g.mask)
            out.append(mixed.transpose(1, 2).reshape(g.rows, -1))
        return torch.cat(out)

    def _lay_out(self, joined: torch.Tensor, g: Group, parts: int) -> tuple[torch.Tensor, ...]:
        """Return a group's tokens (t, parts·H) as `parts` tensors (n, heads, L, d)."""
        x = joined[g.first : g.last] if g.gather is None else joined[g.gather]
        return x.reshape(g.rows, g.longest, parts, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)


class _Layer:
    """Weights of one layer in the form used; `first_only` keeps the query apart from key and value."""

    def __init__(self, layer: Any, kind: type, dtype: torch.dtype, prenorm: bool, first_only: bool):
        def linear(*modules: Any, **options: bool) -> Any:
            """Return one linear layer with the outputs of `modules` concatenated; a single one's weights are shared."""
            weights, biases = [m.weight for m in modules], [m.bias for m in modules]
            if len(modules) == 1:
                return kind(weights[0], biases[0], dtype, **options)
            return kind(torch.cat(weights), torch.cat(biases), dtype)

        attention, self.first_only = layer.attention.self, first_only
        if first_only:
            self.query, self.key_value = linear(attention.query), linear(attention.key, attention.value)
        else:
            self.query_key_value = linear(attention.query, attention.key, attention.value)
        self.out = linear(layer.attention.output.dense)
        self.up, self.down = linear(layer.intermediate.dense, gelu=True), linear(layer.output.dense)
        self.norm1 = layer.attention.self_attn_layer_norm if prenorm else layer.attention.output.LayerNorm
        self.norm2 = layer.LayerNorm if prenorm else layer.output.LayerNorm
