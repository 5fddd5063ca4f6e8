"""Write the Japanese gallery of the evidence from the experiments and their rows: python docs/make_gallery_ja.py"""

from __future__ import annotations

from pathlib import Path

from make_evidence import IMAGES, OUTCOMES_JA

from normwise.evidence import EXPERIMENTS, Experiment
from normwise.evidence.reading import about_committed, committed_rows, judged

PAGE = Path(__file__).parent / "ja" / "gallery.md"
HEAD = """# 実験のギャラリー

四つの記事にある主張を、一つずつ、誰でも一つのコマンドで繰り返せる実験にしたものです。複数のシードで行い、判定の規則は実行の前にコードで決めてあります。「ここでは成り立たない」も「この規模では決まらない」も結果です。手順と規則の詳細は[英語のページ](../evidence.md)にあります。

```
normwise evidence
normwise evidence E2 --quick
```

| | 主張 | 判定 |
|---|---|---|
"""


def page() -> str:
    """The whole page."""
    tried = [experiment for experiment in EXPERIMENTS.values() if committed_rows(experiment)]
    return HEAD + "".join(map(_line, tried)) + "".join(map(_part, tried))


def _claim(experiment: Experiment) -> str:
    return experiment.claim_ja.rstrip("。") + "。"


def _line(experiment: Experiment) -> str:
    outcome = OUTCOMES_JA[judged(experiment, committed_rows(experiment)).outcome]
    number = experiment.number
    return f"| [{number}](#{number.lower()}) | {_claim(experiment)} | **{outcome}** |\n"


def _part(experiment: Experiment) -> str:
    rows, number = committed_rows(experiment), experiment.number
    verdict, about = judged(experiment, rows), about_committed()[number]
    shown = f"![{verdict.sentence}](../images/evidence/{number}.svg)"
    if (IMAGES / f"{number}.png").exists():
        shown += f"\n\n![学習したネットが作ったもの](../images/evidence/{number}.png)"
    size = "(縮小版)" if about["quick"] else ""
    option = " --quick" if about["quick"] else ""
    return (
        f"\n## {number}\n\n**{_claim(experiment)}**(記事 {'、'.join(experiment.said_in)})\n\n{shown}\n\n"
        f"**{OUTCOMES_JA[verdict.outcome]}**。数値(英語):{verdict.sentence}\n\n"
        f"{len(rows)} 回の実行、シード {len({row['seed'] for row in rows})} 個{size}。"
        f"`normwise evidence {number}{option}` で繰り返せます。[規則と手順](../evidence.md#{number.lower()})。\n"
    )


def pages() -> dict[Path, str]:
    """Every page by its file."""
    return {PAGE: page()}


if __name__ == "__main__":
    for file, text in pages().items():
        file.write_text(text, encoding="utf-8")
