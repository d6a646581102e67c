"""The page of the server in a real browser: videos are dropped, and scored side by side."""

from __future__ import annotations

import base64
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webdriver import WebDriver
from selenium.webdriver.support.ui import WebDriverWait

from descore.scoring.scorer import Scorer
from tests.helpers.browsing import DESKTOP, PHONE, check_quiet, opened
from tests.helpers.examples import export_model
from tests.helpers.serving import Running, serving

PROMPT = "a bright bar moves"
KEY = "a-key-of-the-test"
EVIL = "<img src=x onerror=\"document.title = 'broken'\">.mp4"


@pytest.fixture(scope="module")
def export(build, tmp_path_factory: pytest.TempPathFactory) -> str:
    return export_model(build(max_thought_tokens=4), tmp_path_factory.mktemp("model") / "export")


@pytest.fixture(scope="module")
def server(export: str) -> Iterator[Running]:
    with serving(export) as running:
        yield running


def all_of(browser: WebDriver, selector: str) -> list[str]:
    return [element.text for element in browser.find_elements(By.CSS_SELECTOR, selector)]


def wait_for(browser: WebDriver, selector: str, number: int) -> list[str]:
    WebDriverWait(browser, 30).until(lambda _: len(browser.find_elements(By.CSS_SELECTOR, selector)) == number)
    return all_of(browser, selector)


def choose(browser: WebDriver, *paths: object) -> None:
    browser.find_element(By.ID, "files").send_keys("\n".join(map(str, paths)))


def press_score(browser: WebDriver, prompt: str = PROMPT) -> None:
    browser.find_element(By.ID, "prompt").send_keys(prompt)
    browser.find_element(By.ID, "score").click()


def shown(reward: float) -> str:
    return f"{reward:.3f}".replace("-", "\N{MINUS SIGN}")


def is_wider_than_the_screen(browser: WebDriver) -> bool:
    return browser.execute_script("return document.documentElement.scrollWidth > document.documentElement.clientWidth")


@pytest.mark.parametrize("size", [DESKTOP, PHONE])
def test_two_videos_are_scored_side_by_side_and_the_better_one_is_told(browser, server, export, clips, size):
    opened(browser, server.url + "/", size)
    choose(browser, clips[0], clips[1])
    assert wait_for(browser, ".strip canvas", 12) == [""] * 12
    press_score(browser)
    rewards = wait_for(browser, ".reward b", 2)
    scores = Scorer(export, device="cpu").score(clips[:2], PROMPT)
    assert rewards == [shown(score.reward) for score in scores]
    best = max(range(2), key=lambda index: scores[index].reward)
    WebDriverWait(browser, 5).until(lambda _: all_of(browser, "article.best h2") == [f"{best}.mp4"])
    margin = shown(abs(scores[0].reward - scores[1].reward))
    assert all_of(browser, "#verdict") == [f"{best}.mp4 is better, by {margin}."]
    assert [text.split(" …")[0] for text in all_of(browser, ".thought")] == [score.thought.strip() for score in scores]
    assert not is_wider_than_the_screen(browser)
    tops = [card.location["y"] for card in browser.find_elements(By.CSS_SELECTOR, "article")]
    assert (tops[0] == tops[1]) == (size == DESKTOP)
    check_quiet(browser, server.url)


def test_a_video_that_fails_shows_why_and_markup_in_its_name_is_text(browser, server, clips, tmp_path):
    bad, evil = tmp_path / "cut.mp4", tmp_path / EVIL.replace("/", "")
    bad.write_bytes(Path(clips[0]).read_bytes()[:900])
    shutil.copy(clips[1], evil)
    opened(browser, server.url + "/")
    choose(browser, bad, evil)
    press_score(browser, "<b>bold</b><script>document.title = 'broken'</script>")
    assert len(wait_for(browser, ".reward b", 1)) == 1
    (error,) = all_of(browser, ".error")
    assert error.startswith("video: ")
    assert evil.name in all_of(browser, "article h2")
    assert browser.title == "DeScore: which video is better?"
    assert browser.find_elements(By.CSS_SELECTOR, "article img, main b b, main script") == []


def test_videos_can_be_dropped_and_removed(browser, server, clips):
    opened(browser, server.url + "/")
    content = base64.b64encode(Path(clips[0]).read_bytes()).decode()
    browser.execute_script(
        "const bytes = Uint8Array.from(atob(arguments[0]), (one) => one.charCodeAt(0));"
        "const data = new DataTransfer();"
        "data.items.add(new File([bytes], 'dropped.mp4', {type: 'video/mp4'}));"
        "const event = new DragEvent('drop', {dataTransfer: data, bubbles: true, cancelable: true});"
        "document.getElementById('drop').dispatchEvent(event);",
        content,
    )
    assert all_of(browser, "article h2") == ["dropped.mp4"]
    wait_for(browser, ".strip canvas", 6)
    browser.find_element(By.CSS_SELECTOR, "[aria-label='Remove dropped.mp4']").click()
    assert all_of(browser, "article") == []
    assert not browser.find_element(By.ID, "score").is_enabled()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_is_readable_in_both_colour_schemes(browser, server, scheme):
    opened(browser, server.url + "/", scheme=scheme)
    paper, ink = browser.execute_script(
        "const style = getComputedStyle(document.body);"
        "return [style.backgroundColor, style.color].map((one) => one.match(/\\d+/g).slice(0, 3).map(Number));"
    )
    assert abs(sum(paper) - sum(ink)) > 400


def test_a_server_with_a_key_asks_for_it(browser, export, clips):
    with serving(export, "--api-key-env", "TEST_KEY", TEST_KEY=KEY) as keyed:
        opened(browser, keyed.url + "/")
        field = browser.find_element(By.ID, "key")
        WebDriverWait(browser, 10).until(lambda _: field.is_displayed())
        choose(browser, clips[0])
        press_score(browser)
        assert "Authorization" in wait_for(browser, ".error", 1)[0]
        field.send_keys(KEY)
        browser.find_element(By.ID, "score").click()
        assert len(wait_for(browser, ".reward b", 1)) == 1
