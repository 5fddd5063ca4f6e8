"""Write docs/choose.md from the path of questions: python docs/make_choose.py"""

from __future__ import annotations

from pathlib import Path

from normwise.evidence.catalogue import EXPERIMENTS
from normwise.explanation.choosing import markdown

PAGE = Path(__file__).with_name("choose.md")

if __name__ == "__main__":
    PAGE.write_text(markdown(EXPERIMENTS), encoding="utf-8")
