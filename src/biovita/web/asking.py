"""From a request's files and fields to an answer: what pages and the JSON API have in common."""

import re
from base64 import b64encode
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, TypeVar

import numpy as np
from fastapi import Depends, Request
from pydantic import BaseModel, ValidationError
from starlette.datastructures import FormData, UploadFile

from biovita.embed.rules import rule_of
from biovita.errors import BiovitaError, MediaError
from biovita.identify.answer import Answer, Identifier, Named
from biovita.identify.files import How, Identified, identify_file
from biovita.media.audio import read_audio
from biovita.media.image import read_image
from biovita.search.archive import Archive, Hit
from biovita.search.query import UNLIKE, Example, examples_like, search
from biovita.taxonomy.rank import RANKS
from biovita.web import draw, words
from biovita.web.answers import (
    DetectionAnswer,
    FileAnswer,
    HitAnswer,
    IdentifyAnswer,
    IdentifyOptions,
    IndexFacts,
    Naming,
    Provenance,
    RefusedFile,
    SearchAnswer,
    SearchOptions,
    TaxonAnswer,
)
from biovita.web.desk import Desk, Upload
from biovita.web.gate import Refusal
from biovita.web.meter import Meter
from biovita.web.settings import Settings

MAX_FIELDS = 120  # of a form: a search may name a hundred hits
MAX_FIELD_BYTES = 8192
PX_PER_S, MIN_WIDTH_PX, MAX_WIDTH_PX, HEIGHT_PX = 90, 900, 6000, 220
PHOTO_PX = 900
QUOTED = re.compile(r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"")
LISTS = ("like", "unlike")
Options = TypeVar("Options", bound=BaseModel)


@dataclass(frozen=True, kw_only=True)
class House:
    """What every route works with."""

    settings: Settings
    desk: Desk
    meter: Meter

    def identifier(self) -> Identifier:
        """Return the model with its species.

        Raises:
            Refusal: there is none.
        """
        if self.settings.identifier is None:
            raise Refusal(404, "no_model", "this server has no model; start it with --model MODEL")
        return self.settings.identifier

    @cached_property
    def common_names(self) -> dict[str, str]:
        """What people call the model's species."""
        taxa = self.settings.identifier.labels.taxa if self.settings.identifier else []
        return {taxon.species: taxon.common_name for taxon in taxa if taxon.common_name}

    def archive(self) -> Archive:
        """Return the archive.

        Raises:
            Refusal: there is none.
        """
        if self.settings.archive is None:
            raise Refusal(404, "no_archive", "this server has no archive; start it with --archive ARCHIVE")
        return self.settings.archive


def house_of(request: Request) -> House:
    """Return what the application was made with."""
    return request.app.state.house


Housed = Annotated[House, Depends(house_of)]


@dataclass(frozen=True, kw_only=True)
class Exhibit:
    """A picture of a file, made here, as a data URI."""

    image: str
    width_px: int
    height_px: int


@dataclass(frozen=True, kw_only=True)
class Shown:
    """What the page shows beside an answer.

    Attributes:
        exhibits: of the files, in their order.
        ladders: of every naming, those of the files and then that of all together, the best taxon of each rank from
            the highest down; empty where the model is not calibrated for such files.
    """

    exhibits: list[Exhibit]
    ladders: list[list[Named]]


async def identify(request: Request, house: House, *, show: bool = False) -> tuple[IdentifyAnswer, Shown]:
    """Name what was sent.

    Args:
        request: multipart, with `files` and the fields of `IdentifyOptions`.
        house: settings, threads and counters.
        show: also make what only the page shows.

    Raises:
        Refusal: there is no file, a file is refused, a field is wrong, or too many wait.
    """
    identifier = house.identifier()
    async with _received(request, house, IdentifyOptions) as (options, uploads):
        if not uploads:
            raise Refusal(422, "no_file", "send at least one sound or picture in the field `files`")
        how = How(k=options.k, rank=options.rank, confidence=options.confidence)
        found = [await house.desk.by_head(_named, identifier, upload, how) for upload in uploads]
        together = None
        if options.together and len(found) > 1:
            together = await house.desk.by_head(_together, identifier, found, options)
        exhibits = [await house.desk.by_hand(_exhibit, upload) for upload in uploads] if show else []
        ladders = await house.desk.by_head(_ladders, identifier, found, together is not None) if show else []

    def naming(answer: Answer) -> Naming:
        is_calibrated = any(taxon.prob is not None for taxon in answer.taxa)
        said = words.sentence(answer, is_calibrated=is_calibrated, confidence=options.confidence)
        sure = TaxonAnswer.model_validate(answer.sure) if answer.sure else None
        return Naming(sentence=said, sure=sure, taxa=[TaxonAnswer.model_validate(taxon) for taxon in answer.taxa])

    files = [
        FileAnswer(
            modality="audio" if one.modality == "audio" else "image",
            duration_s=one.duration_s,
            sample_rate_hz=upload.verdict.sample_rate_hz,
            size_px=upload.verdict.size,
            flags=list(upload.verdict.flags),
            whole=naming(one.whole),
            detections=[
                DetectionAnswer(start_s=d.start_s, end_s=d.end_s, taxon=TaxonAnswer.model_validate(d.named))
                for d in one.detections
            ],
        )
        for upload, one in zip(uploads, found, strict=True)
    ]
    answer = IdentifyAnswer(
        request_id=request.state.id,
        made_by=Provenance.model_validate(identifier.facts),
        confidence=options.confidence,
        files=files,
        together=naming(together) if together else None,
    )
    return answer, Shown(exhibits=exhibits, ladders=ladders)


async def find(request: Request, house: House) -> tuple[SearchAnswer, SearchOptions]:
    """Search the archive with any mix of text, sounds, pictures and hits.

    Raises:
        Refusal: nothing was asked, a file is refused, a field is wrong, or too many wait.
    """
    identifier, archive = house.identifier(), house.archive()
    async with _received(request, house, SearchOptions) as (options, uploads):
        if not (options.text.strip() or uploads or options.like):
            raise Refusal(422, "no_query", "give a text, a sound, a picture, or a hit to find more like it")
        where = filter_of(options.where)
        hits = await house.desk.by_head(_found, identifier, archive, uploads, options, where)
    answer = SearchAnswer(
        request_id=request.state.id,
        index=index_facts(archive),
        hits=[hit_answer(hit) for hit in hits],
    )
    return answer, options


def index_facts(archive: Archive) -> IndexFacts:
    """Say which state of the archive answers."""
    return IndexFacts(version=archive.version, n_rows=len(archive), **archive.facts)


def hit_answer(hit: Hit) -> HitAnswer:
    """Say a hit without the path of its file."""
    return HitAnswer(
        id=hit.id,
        modality="audio" if hit.modality == "audio" else "image",
        start_s=hit.start_s,
        end_s=hit.end_s,
        score=hit.score,
        species=hit.species,
        recorded_at=hit.recorded_at.isoformat() if hit.recorded_at else None,
        latitude_deg=hit.latitude_deg,
        longitude_deg=hit.longitude_deg,
        device=hit.device,
        licence=hit.licence,
        rights_holder=hit.rights_holder,
        sha256=hit.sha256,
        n_alike=hit.n_alike,
    )


def filter_of(text: str) -> str | None:
    """Take a visitor's filter, which may ask for all but the folders of this machine.

    Raises:
        Refusal: it asks for them.
    """
    if "path" in re.findall(r"\w+", QUOTED.sub(" ", text.lower())):
        raise Refusal(422, "invalid", "where: `path` is this server's own; filter by another column")
    return text.strip() or None


def plain(error: BiovitaError) -> str:
    """Say an error without the folders of this machine."""
    return re.sub(r"(?<![\w/])/(?:[^\s/:,;']+/)+", "", str(error))


@asynccontextmanager
async def _received(request: Request, house: House, kind: type[Options]) -> AsyncIterator[tuple[Options, list[Upload]]]:
    """Read a form: fields, and files that passed the check; they are deleted when the caller is done."""
    if request.headers.get("content-type", "").split(";")[0].strip().lower() != "multipart/form-data":
        raise Refusal(415, "not_a_form", "send multipart/form-data")
    house.desk.refuse_crowd()
    limits = {"max_files": house.settings.max_files, "max_fields": MAX_FIELDS, "max_part_size": MAX_FIELD_BYTES}
    async with AsyncExitStack() as stack:
        async with request.form(**limits) as form:
            folder = await stack.enter_async_context(house.desk.seat())
            options = _options(form, kind)
            files = [part for part in form.getlist("files") if not _is_empty_input(part)]
            if not all(isinstance(part, UploadFile) for part in files):
                raise Refusal(422, "invalid", "files: send files, not text")
            uploads = await house.desk.take([part for part in files if isinstance(part, UploadFile)], folder)
        refused = [
            RefusedFile(file=n, reason=upload.verdict.reason or "", detail=words.why(upload.verdict.reason))
            for n, upload in enumerate(uploads)
            if not upload.verdict.ok
        ]
        for file in refused:
            house.meter.refused[file.reason] += 1
        if refused:
            raise Refusal(422, refused[0].reason, refused[0].detail, files=refused)
        with refusing():
            yield options, uploads


@contextmanager
def refusing() -> Iterator[None]:
    """Turn what a user can mend into a refusal; a file may pass the check and still not decode."""
    try:
        yield
    except MediaError as error:
        raise Refusal(422, error.reason, words.why(error.reason)) from error
    except BiovitaError as error:
        raise Refusal(422, "invalid", plain(error)) from error


def _is_empty_input(part: object) -> bool:
    """Browsers send a file input that was left alone as a file without name and bytes."""
    return isinstance(part, UploadFile) and not part.filename and not part.size


def _options(form: FormData, kind: type[Options]) -> Options:
    given: dict[str, object] = {}
    for key in form:
        if key != "files":
            values = form.getlist(key)
            given[key] = values if key in LISTS or len(values) > 1 else values[0]
    return checked(kind, given)


def checked(kind: type[Options], given: dict[str, object]) -> Options:
    """Check fields.

    Raises:
        Refusal: one of them is wrong; it names the field, and nothing of what was sent.
    """
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        name = next((part for part in first["loc"] if part in kind.model_fields), "a field that is not known")
        raise Refusal(422, "invalid", f"{name}: {first['msg']}") from error


def _named(identifier: Identifier, upload: Upload, how: How) -> Identified:
    return identify_file(identifier, upload.path, upload.verdict.modality or "", how=how)


def _together(identifier: Identifier, found: list[Identified], options: IdentifyOptions) -> Answer:
    return identifier.together(_vectors(found), k=options.k, rank=options.rank, confidence=options.confidence)


def _vectors(found: list[Identified]) -> dict[str, np.ndarray]:
    return {
        modality: np.stack([one.vector for one in found if one.modality == modality and one.vector is not None])
        for modality in dict.fromkeys(one.modality for one in found)
    }


def _ladders(identifier: Identifier, found: list[Identified], is_together: bool) -> list[list[Named]]:
    ladders = []
    for group in [[one] for one in found] + [found] * is_together:
        best = [taxon for rank in RANKS for taxon in identifier.together(_vectors(group), k=1, rank=rank).taxa]
        ladders.append([taxon for taxon in best if taxon.prob is not None])
    return ladders


def _found(
    identifier: Identifier, archive: Archive, uploads: list[Upload], options: SearchOptions, where: str | None
) -> list[Hit]:
    encoder = identifier.encoder
    rule_of(encoder, archive.facts)  # refuses a model that did not make the archive
    archive.refresh()
    examples: list[Example] = []
    if options.text.strip():
        examples.append(Example(modality="text", vector=encoder.embed_text([options.text.strip()])[0]))
    for upload in uploads:
        if upload.verdict.modality == "audio":
            vector = encoder.embed_audio([upload.path], window="windows")[0]
            examples.append(Example(modality="audio", vector=vector))
        else:
            examples.append(Example(modality="image", vector=encoder.embed_image([upload.path])[0]))
    for ids, weight in ((options.like, 1.0), (options.unlike, UNLIKE)):
        if ids:
            examples += examples_like(archive, ids, weight=weight)
    return search(archive, examples, to=options.to, k=options.k, where=where)


def _exhibit(upload: Upload) -> Exhibit:
    if upload.verdict.modality == "image":
        image = read_image(upload.path)
        image.thumbnail((PHOTO_PX, PHOTO_PX))
        picture = "data:image/jpeg;base64," + b64encode(draw.thumbnail(image, PHOTO_PX)).decode()
        return Exhibit(image=picture, width_px=image.width, height_px=image.height)
    width_px = spectrogram_width(upload.verdict.duration_s or 0.0)
    sheet = b64encode(draw.spectrogram(read_audio(upload.path), width_px, HEIGHT_PX)).decode()
    return Exhibit(image=f"data:image/png;base64,{sheet}", width_px=width_px, height_px=HEIGHT_PX)


def spectrogram_width(duration_s: float) -> int:
    """Choose how wide a recording is drawn: so many pixels a second, within bounds."""
    return round(min(MAX_WIDTH_PX, max(MIN_WIDTH_PX, PX_PER_S * duration_s)))


def read_part(path: Path, start_s: float | None, end_s: float | None, most_s: float) -> np.ndarray:
    """Read what a hit stands for: its window, or the beginning of a recording that was taken as a whole."""
    begin_s = start_s or 0.0
    return read_audio(path, start_s=begin_s, duration_s=most_s if end_s is None else min(most_s, end_s - begin_s))
