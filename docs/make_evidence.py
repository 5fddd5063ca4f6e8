"""Write docs/evidence.md and its pictures from results: python docs/make_evidence.py [FOLDER]

FOLDER is what `normwise evidence --all --out FOLDER` has filled; its rows become the package's own. Without it the page
is written again from those.
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
#: What of a row a verdict or picture may need.
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
    """Make the rows of a folder the package's own: the whole experiment where all of it is there, else the reduced one,
    else what the package has."""
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
                continue  # the whole experiment is there already
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
        shown += f"\n\n![What the nets of the first seed have made](images/evidence/{number}.png)"
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

TEXT = """# Evidence: what articles say of normalizers, tried

People choose normalizers by what articles say. Here every claim of the source articles is an experiment that anyone
repeats with one command: with seeds, a rule for the verdict that was fixed before it ran, and a picture.
[A test](../tests/evidence/test_evidence.py) holds each rule to saying something else of exchanged rows. "Does not
hold here" and "undecided at this size" are results, and where a first protocol did not show its claim a second one was
looked for, which has its letter: both are reported. Words: [glossary](glossary.md); where the articles slip:
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
