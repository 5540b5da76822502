"""Run a beam search on weights loaded by transformers: the same texts as its `generate`, with less work.

It exists because back-translation takes half of a step's time: source keys are kept once per text and not once per
beam, the cache is never reordered, finished texts leave the batch, and linears use oneDNN's layout on a CPU. That holds
for M2M100 and NLLB; MADLAD-400 takes the search with the library's own decoder. The tests compare the texts with those
of `generate(num_beams=…, early_stopping=True)`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from rl_nmt.errors import ConfigError
from rl_nmt.models.linears import Prepacked, prepacked_works
from rl_nmt.models.loading import full_precision

FILL = 0.85  # rows encoded together have at least this share of the longest row's length
KEEP = 0.9  # finished texts are removed from the batch when at most this share of its rows is unfinished
GROWTH = 32  # steps that the cache of the past grows by
LOGIT_ROWS = 128  # most hypotheses whose logits exist at once: 131 MB for NLLB's 256,206 tokens in float32
CHUNK = 128  # vocabulary entries that share one maximum


class TransformersEngine:
    """A loaded M2M100 (every dense NLLB) or T5: weights and encoder of transformers, `beam_search` of this module.

    `vocabulary`: number of the model's token ids. `longest_source`: most tokens of an input. `target`: the token that
    every translation begins with; "" for none.
    """

    backend = "transformers"

    def __init__(self, folder: Path, tokenizer, target: str, beams: int, device: str, dtype: str):
        from transformers import AutoModelForSeq2SeqLM

        named = f"backtranslation_model: {folder}"
        try:
            model, info = AutoModelForSeq2SeqLM.from_pretrained(
                folder, dtype=getattr(torch, dtype), output_loading_info=True, trust_remote_code=False
            )
        except (OSError, ValueError, RuntimeError, KeyError) as error:
            raise ConfigError(f"{named} does not load as a translation model: {error}") from error
        if info["missing_keys"]:
            first = sorted(info["missing_keys"])[0]
            raise ConfigError(f"{named}: {len(info['missing_keys'])} weights missing, e.g. {first}; fetch it again")
        t5 = model.config.model_type == "t5"
        self.model = model.eval().requires_grad_(False).to(device)
        self.decoder = CachedDecoder if t5 else _Decoder
        self.packed = torch.device(device).type == "cpu" and prepacked_works() and not t5
        if self.packed:
            _replace_linears(model, torch.nn.Linear, _PackedLinear)
        self.beams = beams
        self.begin = [tokenizer.convert_tokens_to_ids(target)] if target else []
        self.vocabulary = model.config.vocab_size
        self.longest_source = longest_source(model.config.to_dict())

    def generate(self, rows: list[list[int]], caps: list[int]) -> tuple[list[list[int]], int, int]:
        """Translate `rows`, the tokenizer's ids, longest first, into at most `caps[i]` ids each.

        Returns the new ids per row (language tag, text, end), order kept; how many rows were cut at their cap;
        how many padding positions were encoded. Deterministic; in float32 no row depends on the others.
        """
        config = self.model.config
        # Nothing is sampled, but M2M100's encoder draws a LayerDrop number per layer from the global generator.
        with full_precision(), torch.random.fork_rng(devices=[]):
            states, real, padded = self._encode(rows)
            decoder = self.decoder(self.model, states, real)
            prompt = (config.decoder_start_token_id, *self.begin)
            ids = beam_search(decoder, prompt, config.eos_token_id, caps, self.beams)
        return ids, sum(row[-1] != config.eos_token_id for row in ids), padded

    def to(self, device: str) -> None:
        """Move the weights; on a device other than the first one torch's own linears are used."""
        if self.packed and torch.device(device).type != "cpu":
            _replace_linears(self.model, _PackedLinear, _PackedLinear.plain)
            self.packed = False
        self.model.to(device)

    def _encode(self, rows: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor, int]:
        """Return states (n, S, d), which of them are not padding (n, S), and the number of padding positions encoded.

        Only rows of similar length are encoded together, since the search has many rows and padding costs time.
        """
        device, longest = self.model.device, len(rows[0])
        lengths = torch.tensor([len(row) for row in rows], device=device)
        real = torch.arange(longest, device=device) < lengths[:, None]
        states = torch.zeros(len(rows), longest, self.model.config.d_model, dtype=self.model.dtype, device=device)
        first = padded = 0
        while first < len(rows):
            length = len(rows[first])
            last = next((i for i in range(first, len(rows)) if len(rows[i]) < FILL * length), len(rows))
            ids = [row + [self.model.config.pad_token_id] * (length - len(row)) for row in rows[first:last]]
            encoded = self.model.get_encoder()(
                input_ids=torch.tensor(ids, device=device), attention_mask=real[first:last, :length].long()
            )
            states[first:last, :length] = encoded.last_hidden_state
            padded += sum(length - len(row) for row in rows[first:last])
            first = last
        return states, real, padded


class _PackedLinear(torch.nn.Module):
    """A linear layer on a CPU with its weight in oneDNN's layout, twice as fast as torch's own."""

    def __init__(self, linear: torch.nn.Linear):
        super().__init__()
        weight, bias = linear.weight, linear.bias
        bias = weight.new_zeros(len(weight)) if bias is None else bias
        self.linear = Prepacked(weight, bias, weight.dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x)

    def plain(self) -> torch.nn.Linear:
        """Return torch's own layer."""
        weight = self.linear.weight.to_dense()
        layer = torch.nn.Linear(weight.shape[1], weight.shape[0], device="meta").requires_grad_(False)
        layer.weight, layer.bias = (torch.nn.Parameter(x, False) for x in (weight, self.linear.bias))
        return layer


def longest_source(config: dict[str, Any]) -> int:
    """Return the most tokens of an input by a model's configuration; T5, which has no limit, was trained on 512."""
    return int(config.get("max_position_embeddings") or config.get("n_positions") or 512)


def _replace_linears(model: torch.nn.Module, kind: type, make) -> None:
    """Replace every layer of this kind by `make(layer)`."""
    for parent in list(model.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, kind):
                setattr(parent, name, make(layer))


class _Decoder:
    """M2M100's decoder over k hypotheses of each of n texts, one token a step.

    Keys and values of the source are kept once per text, not once per hypothesis. So is the past: one cache per
    text that no step reorders; a mask marks the slots of a hypothesis's own past. `states` (n, S, d): the encoder's
    output; `real` (n, S): False for padding.
    """

    def __init__(self, model, states: torch.Tensor, real: torch.Tensor):
        self.decoder, self.lm_head = model.get_decoder(), model.lm_head
        self.heads, self.device = model.config.decoder_attention_heads, states.device
        self.mask = None if real.all() else real[:, None, None]  # (n, 1, 1, S)
        readers = [layer.encoder_attn for layer in self.decoder.layers]
        self.source = [[self._split(project(states)) for project in (r.k_proj, r.v_proj)] for r in readers]
        self.past = [[x[:, :, :0] for x in pair] for pair in self.source]
        self.seen = real.new_zeros(len(states), 1, 0)  # (n, k, slots): the slots of each hypothesis's past
        self.steps = 0

    def step(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return the last hidden states (n, k, d) after `tokens` (n, k), the newest of each hypothesis."""
        n, k = tokens.shape
        first = self.seen.shape[2]
        last = first + k
        if last > self.past[0][0].shape[2]:
            for pair in self.past:
                pair[:] = [F.pad(x, (0, 0, 0, GROWTH * k)) for x in pair]
        own = torch.eye(k, dtype=torch.bool, device=self.device).expand(n, k, k)
        self.seen = torch.cat([self.seen, own], dim=2)
        places = self.decoder.embed_positions(tokens.reshape(-1, 1), None, self.steps)  # by position: 5.24 renamed it
        hidden = self.decoder.embed_tokens(tokens) + places.view(n, k, -1)
        for layer, (keys, values), source in zip(self.decoder.layers, self.past, self.source, strict=True):
            x = layer.self_attn_layer_norm(hidden)
            keys[:, :, first:last] = self._split(layer.self_attn.k_proj(x))
            values[:, :, first:last] = self._split(layer.self_attn.v_proj(x))
            past = keys[:, :, :last], values[:, :, :last]
            hidden = hidden + self._attend(layer.self_attn, x, past, self.seen[:, None])
            x = layer.encoder_attn_layer_norm(hidden)
            hidden = hidden + self._attend(layer.encoder_attn, x, source, self.mask)
            x = layer.fc1(layer.final_layer_norm(hidden))
            hidden = hidden + layer.fc2(layer.activation_fn(x))
        self.steps += 1
        return self.decoder.layer_norm(hidden)

    def best(self, hidden: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return log-probabilities and ids of each hypothesis's `count` best next tokens, (n, k, count) each."""
        return best_tokens(self.lm_head, hidden, count)

    def follow(self, parents: torch.Tensor) -> None:
        """Make hypothesis j of text i the continuation of hypothesis `parents[i, j]` (n, k)."""
        self.seen = _take(self.seen, parents)

    def keep(self, rows: torch.Tensor) -> None:
        """Keep only these texts."""
        self.seen, self.mask = self.seen[rows], None if self.mask is None else self.mask[rows]
        for pair in (*self.past, *self.source):  # layer by layer, so that there are never two whole caches
            pair[:] = [x[rows] for x in pair]

    def _attend(self, attention, x: torch.Tensor, past: Sequence[torch.Tensor], mask) -> torch.Tensor:
        keys, values = past
        mixed = F.scaled_dot_product_attention(self._split(attention.q_proj(x)), keys, values, attn_mask=mask)
        return attention.out_proj(mixed.transpose(1, 2).flatten(2))

    def _split(self, x: torch.Tensor) -> torch.Tensor:
        """(n, k, d) → (n, heads, k, d / heads)."""
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)


class CachedDecoder:
    """T5's decoder with the library's own cache, the source's keys kept for every hypothesis; see `_Decoder`."""

    def __init__(self, model, states: torch.Tensor, real: torch.Tensor):
        from transformers import DynamicCache, EncoderDecoderCache

        self.model, self.device, self.states, self.real = model, states.device, states, real.long()
        self.past, self.hypotheses = EncoderDecoderCache(DynamicCache(), DynamicCache()), 1
        # transformers 5 names it; 4 scales where the output matrix is that of the embeddings.
        scaled = getattr(model.config, "scale_decoder_outputs", model.config.tie_word_embeddings)
        self.scale = model.config.d_model**-0.5 if scaled else 1.0

    def step(self, tokens: torch.Tensor) -> torch.Tensor:
        n, k = tokens.shape
        out = self.model.get_decoder()(
            input_ids=tokens.reshape(-1, 1),
            # Their keys are cached in the first step, with one hypothesis per text; later only their shape is read.
            encoder_hidden_states=self.states if k == 1 else self.states[:1].expand(n * k, -1, -1),
            encoder_attention_mask=self.real.repeat_interleave(k, dim=0),
            past_key_values=self.past,
            use_cache=True,
        )
        return out.last_hidden_state.view(n, k, -1)

    def best(self, hidden: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        return best_tokens(self.model.lm_head, hidden * self.scale, count)

    def follow(self, parents: torch.Tensor) -> None:
        first = self.hypotheses * torch.arange(len(parents), device=self.device)
        self.past.reorder_cache((first[:, None] + parents).flatten())
        self.hypotheses = parents.shape[1]

    def keep(self, rows: torch.Tensor) -> None:
        each = torch.arange(self.hypotheses, device=self.device)
        self.past.reorder_cache((self.hypotheses * rows[:, None] + each).flatten())
        self.states, self.real = self.states[rows], self.real[rows]


def beam_search(
    decoder: _Decoder | CachedDecoder, prompt: Sequence[int], eos: int, caps: list[int], beams: int
) -> list[list[int]]:
    """Return each text's best hypothesis: new ids to `eos` or its cap, with those of `prompt` after its first id.

    `prompt`: the decoder's start, and the language tag if there is one.

    The rules are those of transformers' `generate` with early_stopping=True and length_penalty=1. Of the
    2 · beams best continuations, those among the first `beams` that end are finished and scored by their mean
    log-probability. A text is finished once it has `beams` of them, or at its cap, where all end. It then leaves
    the batch, so that no text waits for the slowest. beams = 1 is greedy search.
    """
    finished: list[list[tuple[float, list[int]]]] = [[] for _ in caps]
    texts, limits = list(range(len(caps))), torch.tensor(caps, device=decoder.device)
    for token in prompt:
        tokens = torch.full((len(caps), 1), token, device=decoder.device)
        hidden = decoder.step(tokens)
    given = torch.tensor(prompt[1:], dtype=torch.long, device=decoder.device)
    paths = given.expand(len(caps), 1, -1)  # (n, k, t): the new ids so far
    scores = torch.zeros(len(caps), 1, device=decoder.device)  # (n, k): sums of log-probabilities
    while True:
        values, tokens = decoder.best(hidden, 2 * beams)
        values, order = (values + scores[..., None]).flatten(1).topk(2 * beams)  # (n, 2 · beams)
        tokens, parents = tokens.flatten(1).gather(1, order), order // (2 * beams)
        length = paths.shape[2] + 1
        ends = (tokens == eos) | (limits <= length)[:, None]
        unfinished = [len(finished[text]) < beams for text in texts]
        cells = ends[:, :beams].nonzero()
        i, j = cells.T
        ended = torch.cat([paths[i, parents[i, j]], tokens[i, j][:, None]], dim=1)
        for row, value, path in zip(i.tolist(), (values[i, j] / length).tolist(), ended.tolist(), strict=True):
            if unfinished[row]:
                finished[texts[row]].append((value, path))
        # early_stopping=True: stop here. By default `generate` searches longer, for a better unfinished hypothesis, and
        # may return another text where the model is unsure.
        live = [row for row, text in enumerate(texts) if len(finished[text]) < beams]
        if not live:
            return [max(found, key=lambda pair: pair[0])[1] for found in finished]
        scores, picked = values.masked_fill(ends, -torch.inf).topk(beams)  # (n, beams)
        parents, tokens = parents.gather(1, picked), tokens.gather(1, picked)
        paths = torch.cat([_take(paths, parents), tokens[..., None]], dim=2)
        decoder.follow(parents)
        if len(live) <= KEEP * len(texts):
            rows = torch.tensor(live, device=decoder.device)
            decoder.keep(rows)
            texts, limits = [texts[row] for row in live], limits[rows]
            scores, tokens, paths = scores[rows], tokens[rows], paths[rows]
        hidden = decoder.step(tokens)


def best_tokens(lm_head, hidden: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return log-probabilities and ids of the `count` best next tokens after hidden states (n, k, d), (n, k, count)."""
    parts = [top_log_probs(lm_head(x), count) for x in hidden.flatten(0, 1).split(LOGIT_ROWS)]
    values, ids = (torch.cat(x).unflatten(0, hidden.shape[:2]) for x in zip(*parts, strict=True))
    return values, ids


def top_log_probs(logits: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the `count` highest log-probabilities of each row of `logits` (n, V), and their ids; (n, count) each.

    Sorting a large vocabulary costs more than the layers. But the best `count` tokens are all in the `count` chunks
    with the highest maxima.
    """
    log_probs = logits.float().log_softmax(dim=1)
    n, vocabulary = log_probs.shape
    chunks = vocabulary // CHUNK
    if chunks <= 8 * count:
        return log_probs.topk(count)
    within = torch.arange(CHUNK, device=logits.device)
    maxima = log_probs[:, : chunks * CHUNK].unflatten(1, (chunks, CHUNK)).amax(dim=2)
    ids = (maxima.topk(count).indices[..., None] * CHUNK + within).flatten(1)
    rest = torch.arange(chunks * CHUNK, vocabulary, device=logits.device).expand(n, -1)
    ids = torch.cat([ids, rest], dim=1)
    values, order = log_probs.gather(1, ids).topk(count)
    return values, ids.gather(1, order)


def _take(x: torch.Tensor, parents: torch.Tensor) -> torch.Tensor:
    """Select from x (n, k, m) each text's rows `parents` (n, j); returns (n, j, m)."""
    return x.gather(1, parents[..., None].expand(-1, -1, x.shape[2]))
