"""The pages that are made of this suite have every row and promise, and no other sign."""

import pytest

from . import write, write_tools
from .cases import cases

TABLES = {
    "conformance": (write.PAGE.read_text(encoding="utf-8"), ["ranks", *write.CELLS]),
    "tools": (write_tools.PAGE.read_text(encoding="utf-8").partition(write_tools.MARK)[2], [*write_tools.CELLS]),
}


@pytest.mark.parametrize("page", TABLES)
def test_a_page_has_every_row_and_promise(page):
    text, columns = TABLES[page]
    header, *rows = [line.split("|")[1:-1] for line in text.splitlines() if line.startswith("| ")]
    assert [name.strip() for name in header[1:]] == columns
    assert [row[0].split("`")[1] for row in rows] == list(dict.fromkeys(case.name for case in cases()))
    signs = {sign.strip() for row in rows for sign in row[1 + (page == "conformance") :]}
    assert signs <= ({"✓", "-"} if page == "conformance" else {"✓", "-", "error", "evaluates"})
