"""The check of the built site finds what it is for."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "docs"))
from check_site import faults

WORDS = 'Search.setIndex({"docnames": ["start", "choose", "ja/start"]})'
GOOD = '<h1 id="top">Start</h1><a href="#top">up</a><a href="https://arxiv.org">paper</a><img src="a.svg">'


@pytest.fixture
def site(tmp_path):
    (tmp_path / "index.html").write_text(GOOD)
    (tmp_path / "a.svg").write_text("<svg/>")
    (tmp_path / "searchindex.js").write_text(WORDS)
    return tmp_path


def test_a_good_site(site):
    assert faults(site) == []


FAULTS = {
    "a dead link": ('<a href="gone.html">', "index.html: link to gone.html"),
    "a dead anchor": ('<a href="#gone">', "index.html: link to #gone"),
    "a missing picture": ('<img src="gone.png">', "index.html: loads gone.png"),
    "a script of somebody's": (
        '<script src="https://cdn.example/x.js"></script>',
        "index.html: loads https://cdn.example/x.js",
    ),
    "a font of somebody's": (
        '<link rel="stylesheet" href="//fonts.example/x.css">',
        "index.html: loads //fonts.example/x.css",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found(site, fault):
    text, said = FAULTS[fault]
    (site / "index.html").write_text(GOOD + text)
    assert faults(site) == [said]


def test_faults_of_style_sheets_and_search(site):
    (site / "x.css").write_text("@import 'https://fonts.example/y.css';")
    (site / "searchindex.js").write_text(WORDS.replace("choose", "chosen"))
    assert faults(site) == ["x.css: loads https://fonts.example/y.css", "the search does not know choose"]
    (site / "searchindex.js").unlink()
    assert faults(site)[-1] == "there is no index of words for the search"


def test_nothing_is_no_site(tmp_path):
    assert faults(tmp_path)[0] == f"{tmp_path} has no pages"
