"""Every screen in a real browser: by mouse and by keyboard, in silence on the console, and on this machine alone."""

import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect, sync_playwright
from served import TOKEN, Served, serving

CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
pytestmark = pytest.mark.skipif(not Path(CHROMIUM).is_file(), reason="there is no chromium on this machine")
SIZES = {"desktop": {"width": 1280, "height": 900}, "phone": {"width": 390, "height": 844}}
PATHS = ("/", "/search", "/review", "/review?name=frog", "/archive", "/benchmark", "/api", "/login", "/no-such-page")


@dataclass
class Tab:
    """A page of the browser, with all that it said and asked."""

    page: Page
    url: str
    said: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def open(self, path: str) -> Page:
        self.page.goto(self.url + path)
        return self.page

    def quiet(self) -> None:
        """Nothing was said on the console, and no request left the machine."""
        assert not self.said
        foreign = [url for url in self.asked if not url.startswith((self.url, "data:", "blob:" + self.url))]
        assert not foreign
        assert self.asked


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    # A microphone that beeps, so that recording can be tried.
    words = ["--no-sandbox", "--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"]
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=words)
        yield opened
        opened.close()


@pytest.fixture
def tab(browser: Browser, served: Served) -> Iterator[Callable[..., Tab]]:
    opened = []

    def make(size: str = "desktop", url: str = "", **how: Any) -> Tab:
        context = browser.new_context(viewport=SIZES[size], **how)  # pyright: ignore[reportArgumentType]
        opened.append(context)
        context.set_default_timeout(20_000)
        tab = Tab(context.new_page(), url or served.url)
        tab.page.on("console", lambda message: tab.said.append(f"{message.type}: {message.text}"))
        tab.page.on("pageerror", lambda error: tab.said.append(str(error)))
        tab.page.on("request", lambda request: tab.asked.append(request.url))
        return tab

    yield make
    for context in opened:
        context.close()


STATE = (
    "[...document.querySelectorAll('audio')].map(a => [a.currentTime, a.paused, a.seeking, a.readyState, a.duration])"
)


def until(page: Page, what: str, seconds: float = 20.0) -> None:
    """Wait for an expression; Playwright's own way needs eval, which our pages forbid."""
    end = time.monotonic() + seconds
    while not page.evaluate(what):
        assert time.monotonic() < end, (what, page.evaluate(STATE))
        page.wait_for_timeout(50)


def is_playing(page: Page, what: str) -> bool:
    return page.evaluate("what => { const a = document.querySelector(what); return !a.paused && a.duration > 0 }", what)


def test_identify_by_mouse_with_a_sound_and_a_photo(tab: Callable[..., Tab], media: dict[str, list[Path]]) -> None:
    one = tab()
    page = one.open("/")
    page.set_input_files("#sound", media["audio"][0])
    page.set_input_files("#photo", media["image"][0])
    expect(page.locator(".drop.full")).to_have_count(2)
    page.get_by_role("button", name="Identify").click()
    expect(page.locator(".verdict")).to_have_count(3)
    expect(page.locator(".verdict h2").first).to_contain_text("Nearest: ")
    expect(page.locator("#answer")).to_contain_text("not calibrated")
    audio = ".verdict .sound audio"
    assert page.get_attribute(audio, "src").startswith("blob:")  # pyright: ignore[reportOptionalMemberAccess]
    until(page, "document.querySelector('.verdict .sound audio').readyState > 0")
    seconds = page.evaluate("document.querySelector('.verdict .sound audio').duration")
    strip = page.locator(".strip")
    strip.scroll_into_view_if_needed()
    box = strip.bounding_box()
    assert box
    page.mouse.click(box["x"] + 0.5 * box["width"], box["y"] + 30)
    until(page, f"document.querySelector('{audio}').currentTime > {0.5 * seconds - 0.05}")
    assert is_playing(page, audio)
    page.locator(".detections button").first.click()
    until(page, f"document.querySelector('{audio}').currentTime < {0.45 * seconds}")
    assert page.locator(".head").evaluate("head => getComputedStyle(head).opacity") == "1"
    assert page.locator(".photo img").evaluate("image => image.naturalWidth") > 0
    one.quiet()


def test_identify_by_keyboard_alone(tab: Callable[..., Tab], media: dict[str, list[Path]]) -> None:
    one = tab()
    page = one.open("/")
    page.on("filechooser", lambda _: None)  # choosers are caught from now on; from the key press on may be too late
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    for _ in range(30):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == "sound":
            break
    outline = page.locator(".drop").first.evaluate("drop => getComputedStyle(drop).outlineStyle")
    assert outline == "solid"
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Space")
    chooser.value.set_files(media["audio"][0])
    for _ in range(30):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.textContent") == "Identify":
            break
    page.keyboard.press("Enter")
    expect(page.locator(".verdict")).to_have_count(1)
    until(page, "document.activeElement.tagName === 'H2'")
    until(page, "document.querySelector('.verdict .sound audio').readyState > 0")
    for _ in range(5):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.getAttribute('role')") == "slider":
            break
    for key in ("ArrowRight", "ArrowRight", "ArrowLeft"):
        page.keyboard.press(key)
    until(page, "Math.abs(document.querySelector('.verdict audio').currentTime - 0.5) < 0.05")
    assert page.locator(".strip").get_attribute("aria-valuetext") == "0:00.5"
    until(page, "!document.querySelector('.verdict audio').seeking")
    page.keyboard.press("Space")
    until(page, "document.querySelector('.verdict audio').currentTime > 0.6")
    page.keyboard.press("Space")
    assert not is_playing(page, ".verdict audio")
    page.keyboard.press("Home")
    until(page, "document.querySelector('.verdict audio').currentTime === 0")
    one.quiet()


def test_a_sound_is_recorded_and_identified(tab: Callable[..., Tab]) -> None:
    one = tab(permissions=["microphone"])
    page = one.open("/")
    record = page.get_by_role("button", name="Record", exact=True)
    record.click()
    expect(page.get_by_role("button", name="Stop")).to_have_attribute("aria-pressed", "true")
    page.wait_for_timeout(2500)
    page.get_by_role("button", name="Stop").click()
    expect(page.locator(".drop.full")).to_have_count(1)
    expect(page.locator(".drop.full .says")).to_contain_text("recording.wav")
    page.get_by_role("button", name="Identify").click()
    expect(page.locator(".verdict")).to_have_count(1)
    one.quiet()


def test_a_file_is_dropped_and_taken_out_again(tab: Callable[..., Tab], media: dict[str, list[Path]]) -> None:
    one = tab()
    page = one.open("/")
    page.set_input_files("#photo", media["image"][0])
    page.get_by_role("button", name="Take it out").click()
    expect(page.locator(".drop.full")).to_have_count(0)
    page.get_by_role("button", name="Identify").click()
    expect(page.locator(".refused")).to_contain_text("Choose a recording or a photo first")
    one.said.clear()  # the browser itself says that the answer was 422
    one.quiet()


def test_a_hostile_name_and_file_stay_text(tab: Callable[..., Tab], tmp_path: Path) -> None:
    bad = tmp_path / "<img src=x onerror=document.title='x'>.wav"
    bad.write_text("<html><script>document.title = 'x'</script></html>")
    one = tab()
    page = one.open("/")
    title = page.title()
    page.set_input_files("#sound", bad)
    page.get_by_role("button", name="Identify").click()
    expect(page.locator(".refused")).to_contain_text("This is a web page")
    assert page.title() == title
    one.said.clear()
    one.quiet()


def test_search_by_words_and_photo_then_more_and_less_like_a_hit(
    tab: Callable[..., Tab], media: dict[str, list[Path]]
) -> None:
    one = tab()
    page = one.open("/search")
    page.keyboard.press("Tab")
    page.locator("#text").focus()
    page.keyboard.type("a bird by the sea")
    page.keyboard.press("Enter")
    expect(page.locator(".hit").first).to_be_visible()
    until(page, "document.activeElement.tagName === 'H2'")
    page.set_input_files("#photo", media["image"][0])
    page.select_option("select[name=to]", "audio")
    page.get_by_role("button", name="Search", exact=True).click()
    expect(page.locator(".hit.audio").first).to_be_visible()
    until(page, "!document.querySelector('.busy')")
    expect(page.locator(".hit.image")).to_have_count(0)
    first = page.locator(".hit").first
    until(page, "document.querySelector('.hit img').naturalWidth > 0")
    page.locator(".hit audio").first.evaluate("audio => audio.play()")
    until(page, "document.querySelector('.hit audio').currentTime > 0.2")
    first.get_by_role("button", name="More like this").click()
    expect(page.locator("#steer li")).to_have_count(1)
    expect(page.locator("#steer li")).to_contain_text("more like")
    until(page, "!document.querySelector('.busy')")
    page.locator(".hit").last.get_by_role("button", name="Less").click()
    expect(page.locator("#steer li")).to_have_count(2)
    until(page, "!document.querySelector('.busy')")
    page.locator("#steer input").first.click()
    expect(page.locator("#steer li")).to_have_count(1)
    until(page, "!document.querySelector('.busy')")
    page.fill("input[name=where]", "lat > 91")
    page.keyboard.press("Enter")
    expect(page.locator(".results")).to_contain_text("Nothing in the archive fits")
    one.quiet()


def test_review_by_keyboard_and_by_mouse(tab: Callable[..., Tab]) -> None:
    one = tab()
    page = one.open("/review")
    page.locator("#name").focus()
    page.keyboard.type("tried in a browser")
    page.keyboard.press("Enter")
    expect(page.locator(".one h2")).to_have_text("Is this tried in a browser?")
    seen = []
    for n, key in enumerate(("y", "n", "u"), 1):
        seen.append(page.locator("input[name=hit]").input_value())
        page.locator("main").focus()
        page.keyboard.press(key)
        expect(page.locator(".progress b")).to_have_text(str(n))
    seen.append(page.locator("input[name=hit]").input_value())
    page.get_by_role("button", name="Not sure").click()
    expect(page.locator(".progress")).to_contain_text("4 answered: 1 yes, 1 no, 2 not sure")
    assert len(set(seen)) == 4
    page.locator("main").focus()
    page.keyboard.press("b")
    expect(page.locator(".one .note")).to_have_text("You said not sure. A new answer replaces it.")
    assert page.locator("input[name=hit]").input_value() == seen[-1]
    page.locator("main").focus()
    page.keyboard.press("n")
    expect(page.locator(".progress")).to_contain_text("4 answered: 1 yes, 2 no, 1 not sure")
    assert page.locator("input[name=hit]").input_value() not in seen
    loops = page.locator(".one audio")
    assert not loops.count() or loops.evaluate("audio => audio.loop")
    one.quiet()


def test_archive_benchmark_and_api_are_reached_by_the_menu(tab: Callable[..., Tab]) -> None:
    one = tab()
    page = one.open("/")
    for name, title in (
        ("Archive", "What the archive holds"),
        ("Benchmark", "How often is it right?"),
        ("API", "For programs"),
    ):
        page.get_by_role("navigation").get_by_role("link", name=name).focus()
        page.keyboard.press("Enter")
        expect(page.locator("h1")).to_have_text(title)
        assert page.locator("nav a[aria-current]").inner_text() == name
    page.get_by_role("link", name="Archive").click()
    assert page.locator(".chart circle").count() > 3
    assert page.locator(".calendar tbody tr").count() == 12
    one.quiet()


def test_a_visitor_logs_in(tab: Callable[..., Tab], results_file: Path) -> None:
    with serving("--results", results_file, "--token", TOKEN) as server:
        one = tab(url=server.url)
        page = one.open("/benchmark")
        assert page.url == f"{server.url}/login"
        page.get_by_label("Token").fill(TOKEN)
        page.keyboard.press("Enter")
        page.wait_for_url(f"{server.url}/")
        one.open("/benchmark")
        expect(page.locator("h1")).to_have_text("How often is it right?")
        one.quiet()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_axe_finds_no_serious_fault_and_nothing_is_wider_than_the_screen(
    tab: Callable[..., Tab], media: dict[str, list[Path]], size: str, scheme: str
) -> None:
    one, axe = tab(size, color_scheme=scheme), Axe()
    for path in (*PATHS, "answer", "hits"):
        if path == "answer":
            page = one.open("/")
            page.set_input_files("#sound", media["audio"][0])
            page.set_input_files("#photo", media["image"][0])
            page.get_by_role("button", name="Identify").click()
            expect(page.locator(".verdict")).to_have_count(3)
        elif path == "hits":
            page = one.open("/search")
            page.fill("#text", "frog")
            page.keyboard.press("Enter")
            expect(page.locator(".hit").first).to_be_visible()
        else:
            page = one.open(path)
        found = axe.run(page).response["violations"]
        serious = [
            (fault["id"], fault["impact"], [node["html"][:200] for node in fault["nodes"]][:3])
            for fault in found
            if fault["impact"] in ("serious", "critical")
        ]
        assert not serious, path
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), path
    assert not [text for text in one.said if "404" not in text]


def test_motion_is_left_out_where_it_is_not_wanted(tab: Callable[..., Tab]) -> None:
    page = tab(reduced_motion="reduce").open("/")
    assert page.evaluate("getComputedStyle(document.querySelector('.drop')).transitionProperty") == "none"


def test_identify_works_without_a_script(browser: Browser, served: Served, media: dict[str, list[Path]]) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(served.url)
    page.set_input_files("#photo", media["image"][0])
    page.get_by_role("button", name="Identify").click()
    expect(page.locator(".verdict")).to_have_count(1)
    context.close()
