"""Write a fastText model in its own binary format: known words vote for their label, other words count for nothing."""

import struct
from pathlib import Path

SUPERVISED, SOFTMAX = 3, 3


def write_fasttext(path: Path, words: dict[str, str]) -> Path:
    """Write a model with the labels of `words` (word to label), in their order, by `args.cc` and `dictionary.cc`."""
    labels = list(dict.fromkeys(words.values()))
    dim = len(labels)
    settings = (dim, 5, 5, 1, 5, 1, SOFTMAX, SUPERVISED, 0, 0, 0, 100)  # dim ... bucket, minn, maxn, lrUpdateRate
    entries = [(word, 0) for word in ("</s>", *words)] + [(f"__label__{label}", 1) for label in labels]
    parts = [struct.pack("<2i12id", 793712314, 12, *settings, 1e-4)]
    parts.append(struct.pack("<3i2q", len(entries), len(words) + 1, dim, len(entries), -1))
    parts += [text.encode() + b"\0" + struct.pack("<qb", 1, kind) for text, kind in entries]
    rows = [[0.0] * dim] + [[20.0 * (label == own) for label in labels] for own in words.values()]
    for matrix in (rows, [[float(i == j) for j in range(dim)] for i in range(dim)]):
        flat = [value for row in matrix for value in row]
        parts.append(struct.pack(f"<?2q{len(flat)}f", False, len(matrix), dim, *flat))  # not quantised
    path.write_bytes(b"".join(parts))
    return path
