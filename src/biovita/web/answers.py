"""What the JSON API says: versioned, and every answer names the model and the index that it comes from."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from biovita.taxonomy.rank import Rank

Modality = Literal["audio", "image"]
MAX_TEXT = 500  # characters of a query or a filter


class Frozen(BaseModel):
    """A part of an answer."""

    model_config = ConfigDict(frozen=True, extra="forbid", from_attributes=True)


class Provenance(Frozen):
    """Where an answer comes from: the same request gives the same answer as long as these are the same."""

    model: str
    weights_sha256: str
    preprocess: str
    labels: str | None = Field(description="hash of the list of species to choose from")
    calibration: str | None = Field(description="hash of the calibration; null where `prob` is never given")


class TaxonAnswer(Frozen):
    """One taxon."""

    rank: Rank
    name: str
    common_name: str
    lineage: dict[str, str]
    score: float = Field(description="cosine of its best species; no probability")
    prob: float | None = Field(description="calibrated probability; null where the model is not calibrated")
    expected: bool | None = Field(description="on the list of expected species; null without such a list")


class Naming(Frozen):
    """What something is: the best taxa, and the deepest one that is sure enough."""

    sentence: str
    sure: TaxonAnswer | None = Field(description="null: unknown, or the model is not calibrated")
    taxa: list[TaxonAnswer]


class DetectionAnswer(Frozen):
    """A stretch of a recording with one taxon: [start_s, end_s)."""

    start_s: float
    end_s: float
    taxon: TaxonAnswer


class FileAnswer(Frozen):
    """One file: what it is as a whole and, for a recording, over time."""

    modality: Modality
    duration_s: float | None
    sample_rate_hz: int | None
    size_px: tuple[int, int] | None
    flags: list[str] = Field(description="oddities and repairs that did not refuse the file")
    whole: Naming
    detections: list[DetectionAnswer]


class IdentifyAnswer(Frozen):
    """The answer of POST /api/identify; `files` in the order in which they were sent."""

    version: Literal["biovita.identify/1"] = "biovita.identify/1"
    request_id: str
    made_by: Provenance
    confidence: float
    files: list[FileAnswer]
    together: Naming | None = Field(description="of all files as one animal, where that was asked")


class RefusedFile(Frozen):
    """A file that was refused: its place in the request, and the reason in one word."""

    file: int
    reason: str
    detail: str


class ErrorAnswer(Frozen):
    """Every answer that is no success: one word for programs, one line for people."""

    error: str
    detail: str
    request_id: str
    files: list[RefusedFile] = []


class IdentifyOptions(BaseModel):
    """The fields beside the files."""

    model_config = ConfigDict(extra="forbid")

    k: Annotated[int, Field(ge=1, le=100, description="taxa a file")] = 5
    rank: Rank = "species"
    confidence: Annotated[float, Field(gt=0, le=1, description="asked of `sure`")] = 0.8
    together: Annotated[bool, Field(description="all files show one animal")] = False


class SearchOptions(BaseModel):
    """The fields beside the files of a search; at least one of text, files, like must be given."""

    model_config = ConfigDict(extra="forbid")

    text: Annotated[str, Field(max_length=MAX_TEXT)] = ""
    to: Literal["any", "audio", "image"] = "any"
    where: Annotated[str, Field(max_length=MAX_TEXT, description="a filter: lat > 50 and month = 5")] = ""
    like: Annotated[list[str], Field(max_length=50, description="ids of hits: more like these")] = []
    unlike: Annotated[list[str], Field(max_length=50, description="ids of hits: less like these")] = []
    k: Annotated[int, Field(ge=1, le=100)] = 24


class HitAnswer(Frozen):
    """One hit of a search."""

    id: str
    modality: Modality
    start_s: float | None
    end_s: float | None
    score: float = Field(description="cosine to the query")
    species: str | None
    recorded_at: str | None
    latitude_deg: float | None
    longitude_deg: float | None
    device: str | None
    licence: str | None
    rights_holder: str | None
    sha256: str
    n_alike: int = Field(description="near-duplicates that were folded into it")


class IndexFacts(Frozen):
    """Which state of the archive answered."""

    version: int
    n_rows: int
    model: str
    weights_sha256: str
    preprocess: str


class SearchAnswer(Frozen):
    """The answer of POST /api/search; the best hit first."""

    version: Literal["biovita.search/1"] = "biovita.search/1"
    request_id: str
    index: IndexFacts
    hits: list[HitAnswer]


class HitsAnswer(Frozen):
    """The answer of GET /api/archive/hits."""

    version: Literal["biovita.hits/1"] = "biovita.hits/1"
    index: IndexFacts
    hits: list[HitAnswer]


class ArchiveAnswer(Frozen):
    """The answer of GET /api/archive."""

    version: Literal["biovita.archive/1"] = "biovita.archive/1"
    index: IndexFacts
    n_files: int
    by_modality: dict[str, int]
    by_licence: dict[str, int]
    places: list[tuple[float, float, int]] = Field(description="latitude, longitude, number of files")


class LabelRequest(BaseModel):
    """One label to keep."""

    model_config = ConfigDict(extra="forbid")

    hit: Annotated[str, Field(min_length=1, max_length=MAX_TEXT)]
    name: Annotated[str, Field(min_length=1, max_length=MAX_TEXT, description="what the hit is or is not")]
    answer: Literal["yes", "no", "unsure"]


class LabelCounts(Frozen):
    """The answer of POST /api/labels: how many answers each name has now."""

    version: Literal["biovita.labels/1"] = "biovita.labels/1"
    counts: dict[str, dict[str, int]]


class Health(Frozen):
    """The answer of GET /healthz."""

    status: Literal["ok"] = "ok"
    n_waiting: int
