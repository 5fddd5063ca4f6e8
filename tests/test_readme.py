"""The front page is readable as text, and its Japanese twin shows the same commands and code."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
ENGLISH, JAPANESE = (ROOT / name for name in ("README.md", "README.ja.md"))


def code_of(page):
    """The lines of its code blocks without comments, and what stands for the repository."""
    blocks = re.findall(r"^```\w*\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    lines = [line.partition("#")[0].strip() for block in blocks if "──" not in block for line in block.splitlines()]
    return [re.sub(r"<.*?>", "<>", line) for line in lines if line]


def test_no_line_is_too_long_to_read():
    lines = ENGLISH.read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if len(line) > 118 and not line.startswith(("|", "![", "x [N,C"))] == []


def test_the_twin_has_the_same_code():
    assert code_of(JAPANESE) == code_of(ENGLISH)
    assert len(code_of(ENGLISH)) > 30
