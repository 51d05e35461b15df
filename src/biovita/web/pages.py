"""The pages: server-rendered, complete without JavaScript but for playing and recording."""

from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Form, HTTPException, Query, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse
from jinja2 import FileSystemLoader

from biovita.media.image import read_image
from biovita.report import tables
from biovita.report.html import TEMPLATES, environment, facts
from biovita.report.inputs import DIRECTIONS
from biovita.report.plots import TOP_HZ
from biovita.search.archive import Archive, Hit
from biovita.taxonomy.rank import RANKS
from biovita.web import draw, words
from biovita.web.answers import MAX_TEXT, ErrorAnswer, IdentifyOptions, LabelRequest, SearchOptions
from biovita.web.asking import House, Housed, checked, find, hit_answer, identify, index_facts, read_part, refusing
from biovita.web.charts import calendar, chart, shares, ticks
from biovita.web.gate import COOKIE, Refusal, cookie_of, same
from biovita.web.reviewing import keep, review

HERE = Path(__file__).parent
THUMBNAIL_PX = 420
SHEET_PX = (640, 200)
LOOP_S = 10.0  # of a recording, where a hit is all of it
MODALITY_WORDS = {"audio": "Sounds", "image": "Pictures"}
STATUS_WORDS = {401: "This server asks for its token", 404: "There is no such page", 429: "One moment please"}

router = APIRouter(include_in_schema=False)
PAGES = environment().overlay(loader=FileSystemLoader([HERE / "templates", TEMPLATES]))
PAGES.filters |= {
    "called": words.called,
    "clock": words.clock,
    "lasting": words.lasting,
    "percent": words.percent,
    "cosine": tables.cosine_text,
    "share": tables.share_text,
    "day": words.day,
    "place": words.place,
}
PAGES.globals |= {"RANKS": RANKS, "TOP_HZ": TOP_HZ, "ticks": ticks}


def page(name: str, request: Request, status: int = 200, **content: Any) -> HTMLResponse:
    """Render a page; where the page's script asks for a part, only the part."""
    house: House = request.app.state.house
    is_part = "x-part" in request.headers
    frame = "part.html" if is_part else "page.html"
    rendered = PAGES.get_template(name).render(
        frame=frame,
        is_part=is_part,
        path=request.url.path,
        identifier=house.settings.identifier,
        has_token=house.settings.token is not None,
        is_made_up=house.settings.is_made_up,
        common_names=house.common_names,
        **content,
    )
    return HTMLResponse(rendered, status)


async def answer_error(request: Request, error: HTTPException) -> Response:
    """Answer what is no success: JSON for programs, a page for people; no stack and no path of ours."""
    word = error.error if isinstance(error, Refusal) else tables_word(error.status_code)
    said = ErrorAnswer(
        error=word,
        detail=str(error.detail),
        request_id=getattr(request.state, "id", ""),
        files=getattr(error, "more", {}).get("files", []),
    )
    accepts = request.headers.get("accept", "")
    if request.url.path.startswith("/api/") or "text/html" not in accepts:
        if error.status_code == 401:
            error.headers = {**(error.headers or {}), "WWW-Authenticate": "Bearer"}
        return JSONResponse(said.model_dump(), error.status_code, error.headers)
    if error.status_code == 401 and request.method == "GET":
        return RedirectResponse("/login", 303)
    title = STATUS_WORDS.get(error.status_code, "That did not work")
    said = said.model_copy(update={"detail": words.ASKED.get(word, said.detail)})
    response = page("error.html", request, error.status_code, title=title, said=said)
    response.headers.update(error.headers or {})
    return response


def tables_word(status: int) -> str:
    """Name a status that a framework gave, in one word."""
    return {400: "bad_request", 404: "not_found", 405: "bad_method", 413: "body_too_large"}.get(status, "refused")


@router.get("/")
async def identify_page(request: Request) -> HTMLResponse:
    """Show the form of Identify."""
    return page("identify.html", request, options=IdentifyOptions(), answer=None, shown=None)


@router.post("/")
async def identify_answer(request: Request, house: Housed) -> HTMLResponse:
    """Show what was identified."""
    answer, shown = await identify(request, house, show=True)
    return page("identify.html", request, options=IdentifyOptions(), answer=answer, shown=shown)


@router.get("/search")
async def search_page(request: Request, house: Housed) -> HTMLResponse:
    """Show the form of Search."""
    return page("search.html", request, archive=house.settings.archive, options=SearchOptions(), answer=None)


@router.post("/search")
async def search_answer(request: Request, house: Housed) -> HTMLResponse:
    """Show what was found."""
    answer, options = await find(request, house)
    return page("search.html", request, archive=house.settings.archive, options=options, answer=answer)


@router.get("/review")
async def review_page(
    request: Request,
    house: Housed,
    name: Annotated[str, Query(max_length=MAX_TEXT)] = "",
    hit: Annotated[str, Query(max_length=MAX_TEXT)] = "",
) -> HTMLResponse:
    """Ask about the next hit, or once more about one that has an answer."""
    return await _review(request, house, name.strip(), again=hit)


@router.post("/review")
async def review_answer(
    request: Request,
    house: Housed,
    name: Annotated[str, Form(max_length=MAX_TEXT)],
    hit: Annotated[str, Form(max_length=MAX_TEXT)],
    answer: Annotated[str, Form(max_length=10)],
) -> Response:
    """Keep an answer and ask about the next hit."""
    label = checked(LabelRequest, {"name": name, "hit": hit, "answer": answer})
    with refusing():
        await house.desk.by_head(keep, house.archive(), label)
    return await _review(request, house, name.strip(), before=label)


async def _review(
    request: Request, house: House, name: str, *, again: str = "", before: LabelRequest | None = None
) -> HTMLResponse:
    asked = None
    if house.settings.archive is not None:
        with refusing():
            asked = await house.desk.by_head(review, house.settings.archive, name, again)
    hit = hit_answer(asked.hit) if asked and asked.hit else None
    names = (
        sorted({taxon.species for taxon in house.settings.identifier.labels.taxa}) if house.settings.identifier else []
    )
    return page("review.html", request, review=asked, hit=hit, before=before, names=names)


@router.get("/archive")
async def archive_page(request: Request, house: Housed) -> HTMLResponse:
    """Show what is in the archive."""
    archive = house.settings.archive
    if archive is None:
        return page("archive.html", request, status_=None)
    status, places, times, species = await house.desk.by_hand(_overview, archive)
    return page(
        "archive.html",
        request,
        status_=status,
        index=index_facts(archive),
        modalities=shares({MODALITY_WORDS[name]: n for name, n in status["by_modality"].items()}),
        species=shares(dict(species)),
        n_species=len(species),
        licences=shares(status["by_licence"]),
        chart=chart(places),
        calendar=calendar(times),
    )


def _overview(archive: Archive) -> tuple[dict[str, Any], list[tuple[float, float, int]], list[Any], list[Any]]:
    archive.refresh()
    files = archive.column("item", "month", "hour", "species").unique("item", maintain_order=True)
    times = files.drop_nulls("month").group_by("month", "hour").len().rows()
    return archive.status(), archive.places(), times, files.drop_nulls("species").group_by("species").len().rows()


@router.get("/benchmark")
async def benchmark_page(request: Request, house: Housed) -> HTMLResponse:
    """Show the heat map of the results."""
    results = house.settings.results
    if results is None:
        return page("benchmark.html", request, results=None)
    return page(
        "benchmark.html",
        request,
        results=results,
        facts=facts(results),
        headline=tables.headline(results),
        beaten=tables.beaten(results),
        tops=tables.tops(results),
        table=tables.scenario_table(results),
        directions=[(d, tables.DIRECTION_NAMES[d]) for d in DIRECTIONS],
    )


@router.get("/api")
async def api_page(request: Request) -> HTMLResponse:
    """Show how programs ask."""
    schema = request.app.openapi()
    operations = [
        {"method": method.upper(), "path": path, "says": operation.get("description", "")}
        for path, methods in schema["paths"].items()
        for method, operation in methods.items()
    ]
    return page("api.html", request, operations=operations, base=str(request.base_url).rstrip("/"))


@router.get("/login")
async def login_page(request: Request) -> Response:
    """Ask for the token."""
    return page("login.html", request, wrong=False)


@router.post("/login")
async def login(request: Request, house: Housed, token: Annotated[str, Form(max_length=MAX_TEXT)]) -> Response:
    """Let a browser in that knows the token."""
    right = house.settings.token
    if right is None:
        return RedirectResponse("/", 303)
    if not same(token.strip(), right):
        return page("login.html", request, 401, wrong=True)
    response = RedirectResponse("/", 303)
    is_secure = request.url.scheme == "https"
    response.set_cookie(COOKIE, cookie_of(right), httponly=True, samesite="strict", secure=is_secure)
    return response


@router.get("/media/picture")
async def picture(house: Housed, id: Annotated[str, Query(max_length=MAX_TEXT)]) -> Response:
    """Show a hit: a small copy of a picture, or the spectrogram of a sound; both are drawn anew."""
    async with house.desk.seat():
        with refusing():
            hit = await house.desk.by_hand(_hit, house.archive(), id)
            kind, content = await house.desk.by_hand(_picture, hit)
    return Response(content, media_type=kind, headers={"Cache-Control": "private, max-age=600"})


def _picture(hit: Hit) -> tuple[str, bytes]:
    if hit.modality == "image":
        return "image/jpeg", draw.thumbnail(read_image(Path(hit.path)), THUMBNAIL_PX)
    wave = read_part(Path(hit.path), hit.start_s, hit.end_s, LOOP_S)
    return "image/png", draw.spectrogram(wave, *SHEET_PX)


@router.get("/media/sound")
async def sound(house: Housed, id: Annotated[str, Query(max_length=MAX_TEXT)]) -> Response:
    """Play a hit: its window, written anew as WAV."""
    async with house.desk.seat() as folder:
        with refusing():
            hit = await house.desk.by_hand(_hit, house.archive(), id)
            content = await house.desk.by_hand(_sound, hit, folder)
    return Response(content, media_type="audio/wav", headers={"Cache-Control": "private, max-age=600"})


def _sound(hit: Hit, folder: Path) -> bytes:
    if hit.modality != "audio":
        raise Refusal(404, "no_sound", "this hit is a picture")
    return draw.wav(read_part(Path(hit.path), hit.start_s, hit.end_s, LOOP_S), folder)


def _hit(archive: Archive, id_: str) -> Hit:
    if not archive.has([id_]):
        raise Refusal(404, "no_such_hit", "there is no hit of this id in the archive")
    return archive.get([id_])[0]
