"""Write docs/evidence.md and its pictures from results: python docs/make_evidence.py [FOLDER]

FOLDER is the output of `normwise evidence --all --out FOLDER`; its rows replace those of the package. Without FOLDER
the page is written again from the package's rows.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

from normwise.comparison.storage import read_sweep
from normwise.evidence import EXPERIMENTS, Experiment
from normwise.evidence.experiment import DOES_NOT_HOLD, HOLDS, HOLDS_WHEN, UNDECIDED
from normwise.evidence.reading import about_committed, committed_rows, judged
from normwise.evidence.running import folder_of, runs_of
from normwise.evidence.showing import in_short, picture_of

HERE = Path(__file__).parent
PAGE, IMAGES = HERE / "evidence.md", HERE / "images" / "evidence"
RESULTS = HERE.parent / "src" / "normwise" / "evidence" / "results"
ABOUT = RESULTS / "about.json"
#: The fields of a row that a verdict or a picture may need.
KEPT = (
    "norm",
    "batch_size",
    "seed",
    "epochs",
    "status",
    "message",
    "metric",
    "direction",
    "value",
    "metrics",
    "started",
)


def take_in(folder: Path) -> None:
    """Replace the package's rows by those of a folder: of the full experiment if all its rows are there, else of the
    reduced one; without either the package's rows stay."""
    RESULTS.mkdir(exist_ok=True)
    IMAGES.mkdir(exist_ok=True, parents=True)
    about = about_committed() if ABOUT.exists() else {}
    for experiment in EXPERIMENTS.values():
        for quick in (False, True):
            home = folder_of(experiment, folder, quick)
            rows, settings = read_sweep(home) if home.is_dir() else ([], {})
            if not rows or len(rows) < runs_of(experiment, quick):
                continue
            if quick and not about.get(experiment.number, {"quick": True})["quick"]:
                continue  # the rows of the full experiment are there already
            lines = [json.dumps({name: row[name] for name in KEPT}) for row in rows]
            (RESULTS / f"{experiment.number}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
            about[experiment.number] = {
                "machine": settings["machine"]["processor"],
                "versions": settings["versions"],
                "quick": quick,
            }
            made = home / f"{experiment.number}.png"
            if made.exists():
                shutil.copy(made, IMAGES / made.name)
            break
    ordered = {number: about[number] for number in EXPERIMENTS if number in about}
    ABOUT.write_text(json.dumps(ordered, indent=2) + "\n", encoding="utf-8")


def page() -> str:
    """The whole page; writes the pictures."""
    IMAGES.mkdir(exist_ok=True, parents=True)
    tried = [experiment for experiment in EXPERIMENTS.values() if committed_rows(experiment)]
    for experiment in tried:
        picture = picture_of(experiment, committed_rows(experiment))
        (IMAGES / f"{experiment.number}.svg").write_text(picture, encoding="utf-8")
    table = "".join(map(_line, EXPERIMENTS.values()))
    return TEXT.format(table=table, parts="\n".join(map(_part, tried)))


def _line(experiment: Experiment) -> str:
    number, claim = experiment.number, f"{experiment.claim}<br>{experiment.claim_ja}"
    rows = committed_rows(experiment)
    if not rows:
        return f"| {number} | {claim} | not run yet (未実施); `normwise evidence {number}` runs it |\n"
    verdict = judged(experiment, rows)
    found = f"**{verdict.outcome}**{in_short(verdict).removeprefix(verdict.outcome)} ({OUTCOMES_JA[verdict.outcome]})"
    return f"| [{number}](#{number.lower()}) | {claim} | {found} |\n"


def _part(experiment: Experiment) -> str:
    rows, about = committed_rows(experiment), about_committed()[experiment.number]
    verdict = judged(experiment, rows)
    number, articles = experiment.number, ", ".join(experiment.said_in)
    days = sorted({row["started"][:10] for row in rows})
    shown = f"![{verdict.sentence}](images/evidence/{number}.svg)"
    if (IMAGES / f"{number}.png").exists():
        shown += f"\n\n![Pictures made by the nets of the first seed](images/evidence/{number}.png)"
    return PART.format(
        number=number,
        claim=experiment.claim,
        claim_ja=experiment.claim_ja,
        articles=articles,
        outcome=verdict.outcome,
        sentence=verdict.sentence,
        protocol=experiment.protocol,
        rule=experiment.rule,
        runs=len(rows),
        outcome_ja=OUTCOMES_JA[verdict.outcome],
        shown=shown,
        option=" --quick" if about["quick"] else "",
        size=" (the reduced size)" if about["quick"] else "",
        seeds=len({row["seed"] for row in rows}),
        machine=f"{about['machine']}, torch {about['versions']['torch']}, {days[-1]}",
    )


#: The verdicts, for readers of the articles.
OUTCOMES_JA = {
    HOLDS: "成り立つ",
    DOES_NOT_HOLD: "ここでは成り立たない",
    HOLDS_WHEN: "条件つきで成り立つ",
    UNDECIDED: "この規模では決まらない",
}

TEXT = """# Evidence: claims of articles about normalizers, tested

People choose normalizers by the claims of articles. Here every claim of the source articles is an experiment that
anyone can repeat with one command: with several seeds, a rule for the verdict that was fixed in advance, and a picture.
[A test](../tests/evidence/test_evidence.py) checks that each rule gives another verdict if rows are exchanged. "Does
not hold here" and "undecided at this size" are results, too. If a first protocol did not show its claim, there is a
second one, marked by a letter (E9b); both are reported. Words: [glossary](glossary.md); errors of the articles:
[errata](errata.md).

記事にある主張を一つずつ実験にしたものです。判定の規則は実行の前にコードで決めてあります。
最初の実験で決まらなかった主張には別の実験 (E9b など) を加え、両方の結果を載せています。

```
normwise evidence
normwise evidence E2 --quick
```

| | claim | verdict |
|---|---|---|
{table}
{parts}"""

PART = """## {number}

**{claim}.**

**{claim_ja}。** (Articles {articles}.)

{shown}

**{outcome}** ({outcome_ja}): {sentence}

{protocol} *{rule}* `normwise evidence {number}{option}`: {runs} runs, {seeds} seeds{size}; {machine}.
"""


if __name__ == "__main__":
    if len(sys.argv) > 1:
        take_in(Path(sys.argv[1]))
    PAGE.write_text(page(), encoding="utf-8")
