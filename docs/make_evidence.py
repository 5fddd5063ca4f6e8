"""Write docs/evidence.md and its pictures from results: python docs/make_evidence.py [FOLDER]

FOLDER is what `normwise evidence --all --out FOLDER` has filled; its rows become the package's own. Without it the page
is written again from those.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from normwise.comparison.storage import read_sweep
from normwise.evidence import EXPERIMENTS, Experiment
from normwise.evidence.experiment import Results
from normwise.evidence.reading import about_committed, committed_rows, judged

HERE = Path(__file__).parent
PAGE, IMAGES = HERE / "evidence.md", HERE / "images" / "evidence"
RESULTS = HERE.parent / "src" / "normwise" / "evidence" / "results"
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
    """Make the rows of a folder the package's own."""
    RESULTS.mkdir(exist_ok=True)
    about = {}
    for experiment in EXPERIMENTS.values():
        rows, settings = read_sweep(folder / experiment.number)
        lines = [json.dumps({name: row[name] for name in KEPT}) for row in rows]
        (RESULTS / f"{experiment.number}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        about[experiment.number] = {"machine": settings["machine"]["processor"], "versions": settings["versions"]}
    (RESULTS / "about.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")


def page() -> str:
    """The whole page; writes the pictures."""
    IMAGES.mkdir(exist_ok=True, parents=True)
    for experiment in EXPERIMENTS.values():
        picture = experiment.picture(Results(committed_rows(experiment)))
        (IMAGES / f"{experiment.number}.svg").write_text(picture, encoding="utf-8")
    verdicts = {name: judged(e, committed_rows(e)) for name, e in EXPERIMENTS.items()}
    table = "".join(
        f"| [{n}](#{n.lower()}) | {EXPERIMENTS[n].claim} | **{v.outcome}** |\n" for n, v in verdicts.items()
    )
    return TEXT.format(table=table, parts="\n".join(map(_part, EXPERIMENTS.values())))


def _part(experiment: Experiment) -> str:
    rows, about = committed_rows(experiment), about_committed()[experiment.number]
    verdict = judged(experiment, rows)
    number, articles = experiment.number, ", ".join(experiment.said_in)
    days = sorted({row["started"][:10] for row in rows})
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
        seeds=experiment.seeds,
        machine=f"{about['machine']}, torch {about['versions']['torch']}, {days[-1]}",
    )


TEXT = """# Evidence: what articles say of normalizers, tried

People choose normalizers by what articles say. Here claims of the source articles become experiments that anyone
repeats with one command: with seeds, a rule for the verdict that was fixed before it ran, and a picture.
[A test](../tests/evidence/test_evidence.py) holds each rule to saying something else of exchanged rows. "Does not
hold here" and "undecided at this size" are results.

```
normwise evidence
normwise evidence E2 --quick
```

| | claim | verdict |
|---|---|---|
{table}
{parts}"""

PART = """## {number}

**{claim}.** ({claim_ja}。 Articles {articles}.)

![{claim}: {sentence}](images/evidence/{number}.svg)

**{outcome}**: {sentence}

{protocol} *{rule}* `normwise evidence {number}`: {runs} runs, {seeds} seeds; {machine}.
"""


if __name__ == "__main__":
    if len(sys.argv) > 1:
        take_in(Path(sys.argv[1]))
    PAGE.write_text(page(), encoding="utf-8")
