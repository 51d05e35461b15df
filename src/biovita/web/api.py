"""The JSON API: what the pages do, for programs."""

from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel

from biovita.search.labels import label_counts
from biovita.web.answers import (
    MAX_TEXT,
    ArchiveAnswer,
    ErrorAnswer,
    HitsAnswer,
    IdentifyAnswer,
    IdentifyOptions,
    LabelCounts,
    LabelRequest,
    SearchAnswer,
    SearchOptions,
)
from biovita.web.asking import Housed, filter_of, find, hit_answer, identify, index_facts, refusing
from biovita.web.reviewing import keep

MAX_FILES_SHOWN = 4


REFUSALS: dict[int | str, dict[str, Any]] = {
    400: {"model": ErrorAnswer, "description": "The request cannot be read."},
    401: {"model": ErrorAnswer, "description": "The server asks for its token."},
    403: {"model": ErrorAnswer, "description": "The request comes from another site."},
    404: {"model": ErrorAnswer, "description": "There is no such thing here."},
    408: {"model": ErrorAnswer, "description": "The body did not arrive in time."},
    413: {"model": ErrorAnswer, "description": "The body is too large."},
    415: {"model": ErrorAnswer, "description": "The body is no form, or compressed."},
    421: {"model": ErrorAnswer, "description": "The server has another name."},
    422: {"model": ErrorAnswer, "description": "A file or a field is refused; `error` has the reason in one word."},
    429: {"model": ErrorAnswer, "description": "Too many requests; Retry-After says when to come back."},
}
router = APIRouter(prefix="/api", responses=REFUSALS)


def form_of(kind: type[BaseModel], *, needs_files: bool) -> dict[str, Any]:
    """Describe a multipart form for OpenAPI: the fields of a model, and files."""
    schema = kind.model_json_schema()
    files = {"type": "array", "items": {"type": "string", "format": "binary"}, "maxItems": MAX_FILES_SHOWN}
    if needs_files:
        files["minItems"] = 1
        schema["required"] = ["files"]
    schema["properties"]["files"] = {**files, "description": "sounds and pictures, told apart by content"}
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}}


@router.post("/identify", openapi_extra=form_of(IdentifyOptions, needs_files=True))
async def identify_files(request: Request, house: Housed) -> IdentifyAnswer:
    """Name the animals in sounds and pictures."""
    return (await identify(request, house))[0]


@router.post("/search", openapi_extra=form_of(SearchOptions, needs_files=False))
async def search_archive(request: Request, house: Housed) -> SearchAnswer:
    """Search the archive with any mix of text, sounds, pictures, and hits to find more or less like."""
    return (await find(request, house))[0]


@router.get("/archive")
async def archive_facts(house: Housed) -> ArchiveAnswer:
    """Tell what is in the archive."""
    archive = house.archive()
    await house.desk.by_hand(archive.refresh)
    status = await house.desk.by_hand(archive.status)
    return ArchiveAnswer(
        index=index_facts(archive),
        n_files=status["n_files"],
        by_modality=status["by_modality"],
        by_licence=status["by_licence"],
        places=await house.desk.by_hand(archive.places),
    )


@router.get("/archive/hits")
async def archive_hits(
    house: Housed,
    where: Annotated[str, Query(max_length=MAX_TEXT, description="a filter: lat > 50 and month = 5")] = "",
    k: Annotated[int, Query(ge=1, le=100)] = 20,
    offset: Annotated[int, Query(ge=0, le=1_000_000)] = 0,
) -> HitsAnswer:
    """List what is in the archive, filtered, without a query."""
    archive = house.archive()
    await house.desk.by_hand(archive.refresh)
    with refusing():
        hits = await house.desk.by_hand(partial(archive.browse, where=filter_of(where), k=k, offset=offset))
    return HitsAnswer(index=index_facts(archive), hits=[hit_answer(hit) for hit in hits])


@router.get("/labels")
async def labels(house: Housed) -> LabelCounts:
    """Count the answers that each name has."""
    return LabelCounts(counts=await house.desk.by_hand(label_counts, house.archive()))


@router.post("/labels")
async def add_label(label: LabelRequest, house: Housed) -> LabelCounts:
    """Keep one answer: whether a hit is what the name says."""
    with refusing():
        await house.desk.by_head(keep, house.archive(), label)
    return LabelCounts(counts=await house.desk.by_hand(label_counts, house.archive()))
