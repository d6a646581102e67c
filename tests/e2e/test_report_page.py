"""The page of evaluations in a real browser, opened from the disk."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from PIL import Image
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webdriver import WebDriver

from descore.evaluation.benchmark import table_benchmark
from descore.evaluation.run import evaluate
from descore.report import report_on, write_page
from descore.tables.writer import write_pairs
from descore.types import Pair, Side
from tests.conftest import Build
from tests.helpers.browsing import PHONE, check_quiet, opened
from tests.helpers.evaluations import Judged, Shown, write_evaluation

EVIL = "<script>document.title = 'broken'</script><img src=x onerror=\"document.title = 'broken'\"><b>bold</b></script>"


@pytest.fixture(scope="module")
def pages(clips: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of two runs (two.html), and one of the first of them (one.html).

    The first has the margins -3 (wrong), -1 (wrong), 2, 1 and a failure; the second is right about all but the last.
    """
    folder, long = tmp_path_factory.mktemp("pages"), "averyverylongwordwithoutanyspace" * 8
    cut = folder / "cut.mp4"
    cut.write_bytes(Path(clips[0]).read_bytes()[:900])
    said = {"think": "the second run thinks otherwise", "scores": (2, 1, 2, 2, 2)}

    def rows(margins: tuple[float | None, ...], **of_a: object) -> list[Judged]:
        prompts = ("worst", "bad", EVIL, long, "gone")
        truth = {"generator": "Made <1>", "annotated": (2, 2, None, 2, 2)}
        return [
            Judged(
                prompt,
                Shown(clips[0], margin, **{"think": EVIL if prompt == EVIL else f"Thought of {prompt}"} | truth | of_a)
                if margin is not None
                else Shown(str(cut), None, f"{cut.name}: cannot be read"),
                Shown(clips[1], 0.0),
            )
            for prompt, margin in zip(prompts, margins, strict=True)
        ]

    one = write_evaluation(folder / "one", rows((-3.0, -1.0, 2.0, 1.0, None)))
    two = write_evaluation(folder / "two", rows((3.0, 1.0, 2.0, -1.0, None), **said), thoughts=4)
    write_page(report_on([one]), folder / "one.html")
    write_page(report_on([one, two]), folder / "two.html")
    return folder


def text(browser: WebDriver, selector: str) -> str:
    return browser.find_element(By.CSS_SELECTOR, selector).text


def press(browser: WebDriver, key: str) -> None:
    browser.switch_to.active_element.send_keys(key)


def choose(browser: WebDriver, kind: str) -> None:
    browser.find_element(By.CSS_SELECTOR, f"label[data-kind={kind}]").click()


def test_it_opens_without_errors_and_asks_for_nothing_but_itself(browser, pages):
    check_quiet(opened(browser, pages / "two.html"))


def test_the_policy_of_the_page_keeps_foreign_scripts_and_pictures_out(browser, pages):
    opened(browser, pages / "one.html")
    browser.execute_script(
        "const script = document.createElement('script'); script.textContent = 'document.title = 1';"
        "document.body.append(script);"
        "const image = new Image(); image.src = 'https://localhost/x.png'; document.body.append(image);"
    )
    messages = " ".join(entry["message"] for entry in browser.get_log("browser"))
    assert "script-src" in messages
    assert "img-src" in messages
    assert browser.title != "1"


def test_the_worst_error_is_first_and_next_and_previous_go_on(browser, pages):
    opened(browser, pages / "one.html")
    assert text(browser, ".prompt") == "worst"
    assert text(browser, ".call .chip") == "wrong"
    assert text(browser, "#count") == "1 / 5"
    browser.find_element(By.ID, "next").click()
    assert text(browser, ".prompt") == "bad"
    press(browser, Keys.ARROW_LEFT)
    assert text(browser, ".prompt") == "worst"
    press(browser, "j")
    press(browser, "j")
    assert text(browser, "#count") == "3 / 5"
    press(browser, "k")
    assert text(browser, ".prompt") == "bad"


def test_back_and_forward_and_a_link_go_to_pairs(browser, pages):
    opened(browser, pages / "one.html")
    press(browser, "j")
    press(browser, "j")
    browser.back()
    assert text(browser, ".prompt") == "bad"
    browser.back()
    assert text(browser, ".prompt") == "worst"
    browser.forward()
    assert text(browser, ".prompt") == "bad"
    browser.get("about:blank")
    browser.get((pages / "one.html").as_uri() + "#pair=4")
    assert text(browser, ".prompt") == "gone"


def test_filters_show_errors_failures_and_what_is_searched_for(browser, pages):
    opened(browser, pages / "one.html")
    assert [label.text for label in browser.find_elements(By.CSS_SELECTOR, ".choice")] == [
        "Errors 2",
        "All 5",
        "Failed 1",
    ]
    choose(browser, "errors")
    assert text(browser, "#count") == "1 / 2"
    choose(browser, "failed")
    assert text(browser, ".prompt") == "gone"
    assert "cannot be read" in text(browser, ".call .reason")
    assert "Cannot be shown" in text(browser, ".stage")
    choose(browser, "all")
    search = browser.find_element(By.ID, "search")
    search.send_keys("thought OF bad")
    assert text(browser, "#count") == "1 / 1"
    assert text(browser, ".prompt") == "bad"
    search.send_keys("jjj")
    assert text(browser, ".nothing") == "No pair matches."


def test_two_runs_stand_below_each_other_and_one_can_be_chosen(browser, pages):
    opened(browser, pages / "two.html")
    assert [name.text for name in browser.find_elements(By.CSS_SELECTOR, ".call .name")] == ["one", "two"]
    assert [chip.text for chip in browser.find_elements(By.CSS_SELECTOR, ".call-top .chip")] == ["wrong", "right"]
    assert "Thought of worst" in text(browser, ".call:nth-of-type(2) .thought, .call .thought")
    browser.find_element(By.CSS_SELECTOR, "#run option:last-child").click()
    assert text(browser, ".prompt").startswith("averyverylong")  # the one error of the second run
    assert [name.text for name in browser.find_elements(By.CSS_SELECTOR, ".call .name")] == ["two"]


def test_dimension_scores_are_marked_against_the_annotated_ones(browser, pages):
    opened(browser, pages / "one.html")
    first = browser.find_elements(By.CSS_SELECTOR, ".scores")[0].find_elements(By.TAG_NAME, "li")
    assert [item.get_attribute("class") for item in first] == ["right", "right", "wrong", "right", "right"]
    assert first[2].get_attribute("title") == "camera 2, annotated N/A"


def test_thoughts_and_prompts_are_text(browser, pages):
    opened(browser, pages / "one.html")
    browser.find_element(By.ID, "search").send_keys("onerror")
    assert text(browser, ".prompt") == EVIL
    assert EVIL in text(browser, ".thought")
    assert browser.title == "runs/one/export on bars"
    inside = "return document.querySelectorAll('.prompt *, .thought > :not(code)').length"
    assert browser.execute_script(inside) == 0
    assert browser.execute_script("return document.querySelectorAll('img:not(.stage img, .strip img)').length") == 0


@pytest.mark.parametrize("page", ["one.html", "two.html"])
def test_a_phone_scrolls_the_page_down_only(browser, pages, page):
    opened(browser, pages / page, PHONE)
    for _ in range(5):
        assert browser.execute_script("return document.documentElement.scrollWidth") == PHONE[0]
        press(browser, "j")
    assert browser.execute_script("return document.querySelector('.scroll').scrollWidth") > PHONE[0]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_table_that_goes_on_has_a_shadow_at_that_edge(browser, pages, scheme):
    opened(browser, pages / "two.html", PHONE, scheme=scheme)
    table = browser.find_element(By.CSS_SELECTOR, ".scroll")

    def edges() -> list[bool]:
        """Whether the left and the right edge are darker than the paper, in the corner where no text is."""
        picture = Image.open(io.BytesIO(table.screenshot_as_png)).convert("L")
        paper = picture.getpixel((picture.width // 2, 2))
        return [picture.getpixel((x, 2)) < paper - 5 for x in (0, picture.width - 1)]

    assert edges() == [False, True]
    browser.execute_script("arguments[0].scrollLeft = 60", table)
    assert edges() == [True, True]
    browser.execute_script("arguments[0].scrollLeft = 9999", table)
    assert edges() == [True, False]


def test_what_is_coloured_has_a_legend(browser, pages):
    opened(browser, pages / "two.html")
    assert text(browser, ".key").splitlines() == [
        "called right",
        "called wrong by a run",
        "failed",
        "dimension scores: ✓ as annotated, ✗ and what is annotated",
        "bar: the margin, towards the video with the larger reward; full at twice the run's root mean square margin",
    ]
    swatch = "return getComputedStyle(document.querySelector(arguments[0])).backgroundColor"
    for verdict in ("right", "wrong", "failed"):
        assert browser.execute_script(swatch, f".key .{verdict}") == browser.execute_script(swatch, f".map .{verdict}")


def test_frames_are_pictures_and_show_one_after_the_other(browser, pages):
    opened(browser, pages / "one.html")
    images = "return [...document.querySelectorAll('.stage img, .strip img')].map((image) => image.naturalWidth)"
    widths = browser.execute_script(images)
    assert len(widths) == 2 + 2 * 6
    assert min(widths) > 0
    assert browser.find_element(By.CSS_SELECTOR, ".stage img").get_attribute("alt") == "Video A, frame 1 of 6, at 0 s"
    browser.find_elements(By.CSS_SELECTOR, ".strip button")[5].click()
    assert "frame 6 of 6" in browser.find_element(By.CSS_SELECTOR, ".stage img").get_attribute("alt")


CONTRAST = """
const light = (text) => {
  const parts = text.match(/[\\d.]+/g).map(Number).slice(0, 3).map((part) => part / 255);
  const linear = parts.map((part) => (part <= 0.03928 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4));
  return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
};
const behind = (element) => {
  for (let at = element; at; at = at.parentElement) {
    const color = getComputedStyle(at).backgroundColor;
    if (!/, 0\\)$/.test(color)) return light(color);
  }
};
return [...document.querySelectorAll(arguments[0])].map((element) => {
  const style = getComputedStyle(element);
  const ink = light(element instanceof SVGElement ? style.fill : style.color);
  const [high, low] = [ink, behind(element)].sort((one, other) => other - one);
  return (high + 0.05) / (low + 0.05);
});
"""


@pytest.mark.parametrize(("scheme", "paper"), [("light", "rgb(255, 255, 255)"), ("dark", "rgb(20, 23, 27)")])
def test_both_colour_schemes_are_readable_in_figures_too(browser, pages, scheme, paper):
    """WCAG asks for a contrast of 4.5 between text and what is behind it."""
    opened(browser, pages / "two.html", scheme=scheme)
    assert browser.execute_script("return getComputedStyle(document.body).backgroundColor") == paper
    assert len(browser.execute_script(CONTRAST, "figure svg text")) > 30
    for selector in (
        "figure svg text",
        "p",
        "td",
        "th",
        ".chip",
        ".thought",
        ".thought code",
        ".key",
        ".sides",
        ".scores li span",
        "dt",
    ):
        assert min(browser.execute_script(CONTRAST, selector), default=21) >= 4.5, selector


def test_every_control_and_picture_has_a_name(browser, pages):
    opened(browser, pages / "two.html")
    nameless = browser.execute_script(
        "return [...document.querySelectorAll('button, input, select, svg, img, [role=region], [role=img]')]"
        ".filter((e) => !(e.textContent.trim() && e.tagName == 'BUTTON') && !e.getAttribute('aria-label')"
        " && !e.closest('label') && e.getAttribute('alt') == null).map((e) => e.outerHTML.slice(0, 80))"
    )
    assert nameless == []
    assert browser.find_element(By.TAG_NAME, "html").get_attribute("lang") == "en"


class TestAttention:
    @pytest.fixture
    def page(self, build: Build, clips: list[str], tmp_path: Path) -> Path:
        """A page of two runs of one model."""
        model, table = tmp_path / "model", tmp_path / "pairs.jsonl"
        build().save_pretrained(str(model))
        write_pairs(table, [Pair("one", "a bar", Side(clips[0]), Side(clips[1]), (1.0,))])
        folders = [tmp_path / name for name in ("one", "two")]
        for folder in folders:
            evaluate(str(model), table_benchmark(table), folder, device="cpu")
        return write_page(report_on(folders, attention=True, device="cpu"), tmp_path / "page.html")

    def test_shares_and_a_heat_map_that_can_be_left_out(self, browser, page):
        check_quiet(opened(browser, page))
        shares = browser.find_element(By.CSS_SELECTOR, ".attention").text.replace("\n", " ")
        assert re.fullmatch(r"attends to video [\d.]+ % prompt [\d.]+ % thought [\d.]+ % query [\d.]+ %", shares)
        assert sum(map(float, re.findall(r"[\d.]+(?= %)", shares))) == pytest.approx(100, abs=0.3)
        size = "return [...document.querySelectorAll(arguments[0])].map((e) => [e.naturalWidth, e.naturalHeight])"
        assert browser.execute_script(size, ".stage .heat") == browser.execute_script(size, ".stage img:not(.heat)")
        place = "return JSON.stringify(document.querySelector(arguments[0]).getBoundingClientRect())"
        assert browser.execute_script(place, ".stage .heat") == browser.execute_script(place, ".stage img:not(.heat)")
        source = "return document.querySelector('.stage .heat').src"
        first = browser.execute_script(source)
        browser.find_elements(By.CSS_SELECTOR, ".strip button")[5].click()
        assert browser.execute_script(source) != first
        assert "heat map: what the query token attends to" in text(browser, ".key")
        options = browser.find_elements(By.CSS_SELECTOR, "#heat option")
        assert [option.text for option in options] == ["no heat map", "heat map: one", "heat map: two"]
        options[0].click()
        assert browser.find_elements(By.CSS_SELECTOR, ".heat") == []

    def test_a_phone_scrolls_it_down_only(self, browser, page):
        opened(browser, page, PHONE)
        assert browser.execute_script("return document.documentElement.scrollWidth") == PHONE[0]
        assert min(browser.execute_script(CONTRAST, ".key, .attention .key span")) >= 4.5
