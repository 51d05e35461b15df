"""Entries of made-up files, which need not exist."""

import numpy as np

from biovita.embed.store import Facts
from biovita.search.archive import About, Entry

WIDTH = 16
FACTS = Facts(model="made-up", weights_sha256="ab" * 32, preprocess="none-windows-each")


def unit_rows(n: int, *, seed: int = 0, width: int = WIDTH) -> np.ndarray:
    """Draw unit rows: float32, shape (n, width)."""
    rows = np.random.default_rng(seed).normal(size=(n, width)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def content(n: int, change: int = 0) -> str:
    """Give file number n a content, and another one after each change."""
    return f"{n:08x}{change:08x}" + "0" * 48


def picture(n: int, *, change: int = 0, path: str = "", about: About | None = None) -> Entry:
    """Make the entry of a picture."""
    vectors = unit_rows(1, seed=1000 * change + n)
    place = path or f"/nowhere/{n}.jpg"
    return Entry(path=place, sha256=content(n, change), modality="image", vectors=vectors, about=about or About())


def recording(n: int, n_windows: int = 3, *, about: About | None = None) -> Entry:
    """Make the entry of a recording with windows of 10 s, the last one 5 s."""
    spans = [(10.0 * i, 10.0 * i + (10.0 if i < n_windows - 1 else 5.0)) for i in range(n_windows)]
    vectors = unit_rows(n_windows, seed=50_000 + n)
    place = f"/nowhere/{n}.flac"
    digest, known = content(100_000 + n), about or About()
    return Entry(path=place, sha256=digest, modality="audio", vectors=vectors, spans=spans, about=known)
