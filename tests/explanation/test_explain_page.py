"""The interactive page in a real browser: the cube is turned, and its numbers are those that were measured."""

from functools import cache

import pytest
import torch
from browser import CHROMIUM, Browser

import normwise as nw
from normwise.explanation.page import page
from normwise.explanation.pictures import effect_on, load_pictures
from normwise.explanation.variants import variants

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed (apt-get install chromium)"),
]
FACES = """[...document.querySelectorAll("#cube polygon")].map((face) => [
  face.dataset.place.split(",").map(Number), Number(face.dataset.group), face.getAttribute("points"),
  face.className.baseVal])"""
PROPERTIES = """Object.fromEntries([...document.querySelectorAll("#properties tr")].map(
  (row) => [row.cells[0].textContent, row.cells[1].textContent]))"""


@cache
def made():
    """The page, for every width."""
    told = {name: variants(name) for name in ("batch", "group")}
    effects = {"batch": effect_on("batch", *load_pictures([]))}
    return page(told, "normwise explain batch group", effects)


@pytest.fixture(scope="module", params=[1400, 420])
def browser(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "explain.html"
    path.write_text(made())
    with Browser(tmp_path_factory.mktemp("profile")) as browser:
        browser.open(path.as_uri(), request.param)
        yield browser


def click(browser, selector):
    browser.evaluate(f"document.querySelector('{selector}').click()")


def slide(browser, name, value):
    change = f"s.value = {value}; s.dispatchEvent(new Event('input'))"
    browser.evaluate(f"(() => {{ const s = document.getElementById('{name}'); {change}; }})()")


def cube(layer, samples):
    return nw.explain(layer, torch.zeros(samples, 6, 2, 2))


def assert_shows(browser, told):
    """Every visible face has the number of its value, on three sides of the cube."""
    grid = told.cube.flatten(2)
    faces = browser.evaluate(FACES)
    sizes = grid.shape
    assert len(faces) == sizes[0] * sizes[1] + sizes[1] * sizes[2] + sizes[0] * sizes[2]
    for place, group, _, _ in faces:
        assert group == int(grid[tuple(place)])
    assert browser.evaluate(PROPERTIES) == told.properties
    return faces


def test_the_page_is_quiet_and_whole(browser):
    assert browser.seen("Runtime.exceptionThrown") == []
    assert browser.seen("Log.entryAdded") == []
    urls = [event["request"]["url"] for event in browser.seen("Network.requestWillBeSent")]
    assert [url for url in urls if not url.startswith("data:")] == [urls[0]]
    assert browser.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") == 0
    assert browser.evaluate("document.querySelectorAll('.pictures img').length") == 4


def test_turning_shows_other_values_with_their_numbers(browser):
    click(browser, '[data-name="batch"]')
    told = cube(nw.BatchNorm2d(6), 4)
    before = assert_shows(browser, told)
    for _ in range(7):
        click(browser, '[data-turn="right"]')
    click(browser, '[data-turn="up"]')
    after = assert_shows(browser, told)
    assert {tuple(face[0]) for face in before} != {tuple(face[0]) for face in after}
    assert {face[2] for face in before}.isdisjoint(face[2] for face in after)
    browser.evaluate("document.getElementById('cube').dispatchEvent(new KeyboardEvent('keydown', {key: 'ArrowLeft'}))")
    assert {face[2] for face in after}.isdisjoint(face[2] for face in assert_shows(browser, told))


def test_batch_size_groups_and_mode(browser):
    click(browser, '[data-name="group"]')
    titles = "[...document.querySelectorAll('section:not([hidden]) h2')].map((title) => title.textContent)"
    assert browser.evaluate(titles) == ["GroupNorm"]
    for number, groups in enumerate((1, 2, 3, 6)):
        slide(browser, "number", number)
        slide(browser, "samples", 1)
        assert_shows(browser, cube(nw.GroupNorm(groups, 6), 2))
    click(browser, '[data-name="batch"]')
    click(browser, '[data-mode="eval"]')
    assert_shows(browser, cube(nw.BatchNorm2d(6).eval(), 2))
    click(browser, '[data-mode="train"]')
    slide(browser, "samples", 3)
    assert_shows(browser, cube(nw.BatchNorm2d(6), 4))


def test_a_chosen_value_shows_what_it_reads(browser):
    click(browser, '[data-name="group"]')
    slide(browser, "number", 2)
    slide(browser, "samples", 3)
    told = cube(nw.GroupNorm(3, 6), 4)
    place = browser.evaluate(FACES)[0][0]
    browser.evaluate("document.querySelector('#cube polygon').dispatchEvent(new MouseEvent('click'))")
    reads = told.reads(place[0], place[1], place[2] // 2, place[2] % 2).flatten(2)
    for at, _, _, looks in assert_shows(browser, told):
        assert ("read" in looks.split()) == bool(reads[tuple(at)])
        assert ("chosen" in looks.split()) == (at == place)
    said = browser.evaluate("document.getElementById('said').textContent")
    assert "its statistics take in 8 values, and 8 values share all of them" in said


def test_a_link_can_name_the_normalizer(tmp_path):
    path = tmp_path / "explain.html"
    path.write_text(made())
    titles = "[...document.querySelectorAll('section:not([hidden]) h2')].map((title) => title.textContent)"
    with Browser(tmp_path / "profile") as browser:
        browser.open(f"{path.as_uri()}#group", 1400)
        assert browser.evaluate(titles) == ["GroupNorm"]
        browser.evaluate("location.hash = 'batch'; new Promise((done) => setTimeout(done, 50))")
        assert browser.evaluate(titles) == ["BatchNorm"]
        assert browser.seen("Runtime.exceptionThrown") == []


def test_the_page_is_dark_where_that_is_preferred(browser):
    browser.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
    assert browser.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 26)"
