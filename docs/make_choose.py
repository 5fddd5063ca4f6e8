"""Write docs/choose.md and its Japanese twin from the path of questions: python docs/make_choose.py"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

from choose_ja import JAPANESE

from normwise.evidence.catalogue import EXPERIMENTS
from normwise.explanation.choices import PATH, Advice, Branch, Question
from normwise.explanation.choosing import anchor, markdown

HERE = Path(__file__).parent
HEAD = """# どれを使うべきか

質問に順に答えてください。どの道の終わりにも、使うべき正規化と、それを自分のデータで測るコマンドがあります。
法則ではありません:リンクはその主張を試した実験と判定へ、「実験なし」は誰も試していないことを示します。
`normwise explain --choose` は同じ質問を英語で行い、`normwise explain NAME` は正規化の働きを示します。
このページは[英語版](../choose.md)と同じ質問から `docs/make_choose.py` が作ります。
"""


def pages() -> dict[Path, str]:
    """Every page by its file."""
    return {HERE / "choose.md": markdown(EXPERIMENTS), HERE / "ja" / "choose.md": in_japanese(EXPERIMENTS)}


def in_japanese(known: Collection[str]) -> str:
    """The Japanese page; ``known`` are the experiments that there are."""
    return HEAD + "".join(_sections(PATH, known, ""))


def _sections(question: Question, known: Collection[str], path: str) -> Iterator[str]:
    """A heading for each question; later questions are named by the answers on the path to them."""
    yield f"\n## {JAPANESE[question.text]}\n\n" + (f"*{path}*\n\n" if path else "")
    for branch in question.branches:
        said = "".join(filter(None, (JAPANESE[branch.because] if branch.because else "", _evidence(branch, known))))
        yield f"- **{JAPANESE[branch.answer]}**。{said}"
        if isinstance(branch.then, Advice):
            yield f"\n  **{JAPANESE[branch.then.use]}** を使い、測る:\n\n  ```bash\n  {branch.then.command}\n  ```\n"
        else:
            yield f" → [{JAPANESE[branch.then.text]}](#{anchor(JAPANESE[branch.then.text])})\n"
    for branch in question.branches:
        if isinstance(branch.then, Question):
            here = f"{path} → {JAPANESE[branch.answer]}" if path else JAPANESE[branch.answer]
            yield from _sections(branch.then, known, here)


def _evidence(branch: Branch, known: Collection[str]) -> str:
    if not branch.because:
        return ""
    tried = "、".join(f"[{n}](../evidence.md#{n.lower()})" for n in branch.evidence if n in known)
    return f"({tried})" if tried else "(実験なし)"


if __name__ == "__main__":
    for file, text in pages().items():
        file.write_text(text, encoding="utf-8")
