"""The parts of an embedding file that is being made: what is done stays done when a run is killed.

    OUT.parts/manifest.json      what makes the vectors, and of which list
    OUT.parts/000000000.parquet  the vectors of the things from number 0 on: an embedding file
    OUT.parts/000000000.json     written after it: where the next part begins, its files' sizes and times, the refused

The next run with the same model, preprocessing and list goes on behind the last part whose files are unchanged. At the
end the parts are joined into one file and removed.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from biovita.embed.store import Facts, join_embeddings, write_embeddings
from biovita.errors import EmbeddingError, MediaError
from biovita.files import MANIFEST, read_json, sha256_json, write_json
from biovita.models.encoder import Embedded


class Bad(NamedTuple):
    """A thing that was refused."""

    id: str
    reason: str
    detail: str


def readable(text: str) -> str:
    """Write the bytes of a file name that are not UTF-8 as escapes."""
    return text.encode(errors="surrogateescape").decode(errors="backslashreplace")


class Parts:
    """The parts of one embedding file.

    Args:
        out: the file.
        facts: what makes the vectors.
        ids: one a thing, all different.
        things: paths or texts.

    Attributes:
        folder: where they lie.
        n_done: things that have been dealt with.
        bad: of these, the refused ones.

    Raises:
        EmbeddingError: an id occurs twice, or the parts of another run are in the way.
    """

    def __init__(self, out: Path, facts: Facts, *, ids: Sequence[str], things: Sequence[Any]) -> None:
        if len(set(ids)) < len(ids):
            twice = next(one for n, one in enumerate(ids) if one in ids[:n])
            raise EmbeddingError(f"{out}: {twice!r} is there twice; name everything once")
        self.folder = out.with_name(f"{out.name}.parts")
        self.n_done = 0
        self.bad: list[Bad] = []
        self._out, self._ids, self._things, self._facts = out, ids, things, facts
        self._files: list[Path] = []
        self._open({**facts, "list": sha256_json(list(ids))})

    def _open(self, wanted: dict[str, object]) -> None:
        manifest = self.folder / MANIFEST
        if not manifest.is_file():
            write_json(manifest, wanted)
        there = read_json(manifest)
        for key, value in wanted.items():
            if there.get(key) != value:
                differs = f"its {key} is {there.get(key)!r}, now it is {value!r}"
                raise EmbeddingError(
                    f"{self.folder}: holds parts of another run: "
                    f"{'other files or names, or in another order' if key == 'list' else differs}; "
                    f"finish that run, remove the folder, or choose another --out"
                )
        while (note := self._note()).is_file():
            facts = read_json(note)
            if facts["files"] != self._stamp(facts["stop"]):  # changed since: from here on again
                break
            self._count(facts)

    def write(self, block: Sequence[Embedded | MediaError], *, level: str | None = None) -> int:
        """Keep the results of the next things, and return how many of them were refused."""
        ids = self._ids[self.n_done : self.n_done + len(block)]
        bad = [
            Bad(one, item.reason, readable(item.detail))
            for one, item in zip(ids, block, strict=True)
            if isinstance(item, MediaError)
        ]
        rows = [
            (one, item.modality, span, vector)
            for one, item in zip(ids, block, strict=True)
            if isinstance(item, Embedded)
            for span, vector in zip(item.spans or [(None, None)], item.vectors, strict=True)
        ]
        if rows:
            names, modality, spans, vectors = zip(*rows, strict=True)
            is_text = [kind == "text" for kind in modality]
            write_embeddings(
                self._note().with_suffix(".parquet"),
                ids=names,
                modality=modality,
                embedding=np.stack(vectors),
                start_s=[start for start, _ in spans],
                end_s=[end for _, end in spans],
                text=[one if text else None for one, text in zip(names, is_text, strict=True)],
                level=[level if text else None for text in is_text],
                **self._facts,
            )
        stop = self.n_done + len(block)
        facts = {"stop": stop, "n_vectors": len(rows), "files": self._stamp(stop), "bad": bad}
        write_json(self._note(), facts)
        self._count(facts)
        return len(bad)

    def join(self) -> int:
        """Make the file of all parts, remove them, and return its number of rows; without rows there is no file."""
        n_rows = join_embeddings(self._out, self._files) if self._files else 0
        shutil.rmtree(self.folder)
        return n_rows

    def _note(self) -> Path:
        return self.folder / f"{self.n_done:09}.json"

    def _count(self, facts: dict[str, Any]) -> None:
        if facts["n_vectors"]:
            self._files.append(self._note().with_suffix(".parquet"))
        self.bad += [Bad(*one) for one in facts["bad"]]
        self.n_done = facts["stop"]

    def _stamp(self, stop: int) -> str:
        """Hash what shows that a file was changed; texts stand in the list itself."""
        paths = [thing for thing in self._things[self.n_done : stop] if isinstance(thing, Path)]
        return sha256_json([_size_and_time(path) for path in paths])


def _size_and_time(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns
