"""The experiments: their verdicts follow from their rows, and from nothing else."""

import html
import json
import math
import re
import sys

import pytest
import torch

from normwise.evidence import EXPERIMENTS, run_experiment
from normwise.evidence.catalogue import find_experiment
from normwise.evidence.charts import RIGHT, WIDTH
from normwise.evidence.e17_moving_averages import MovingAverageNorm
from normwise.evidence.experiment import DOES_NOT_HOLD, HOLDS, HOLDS_WHEN, OUTCOMES, UNDECIDED, Results, student
from normwise.evidence.reading import about_committed, committed_rows, judged, read_committed
from normwise.evidence.running import runs_of
from normwise.evidence.showing import picture_of

ALL = list(EXPERIMENTS.values())
BY_NUMBER = {"argnames": "experiment", "argvalues": ALL, "ids": [experiment.number for experiment in ALL]}
WITH_ROWS = [experiment for experiment in ALL if committed_rows(experiment)]
TRIED = {"argnames": "experiment", "argvalues": WITH_ROWS, "ids": [experiment.number for experiment in WITH_ROWS]}
#: What the committed results say.
FOUND = {
    "E1": HOLDS,
    "E1b": HOLDS,
    "E2": HOLDS_WHEN,
    "E3": HOLDS,
    "E4": HOLDS,
    "E5": HOLDS,
    "E6": HOLDS,
    "E7": HOLDS_WHEN,
    "E8": HOLDS,
    "E9": DOES_NOT_HOLD,
    "E9b": HOLDS_WHEN,
    "E10": UNDECIDED,
    "E10b": UNDECIDED,
    "E11": UNDECIDED,
    "E11b": UNDECIDED,
    "E12": HOLDS_WHEN,
    "E12b": HOLDS,
    "E13": DOES_NOT_HOLD,
    "E13b": HOLDS,
    "E14": HOLDS,
    "E15": HOLDS,
    "E16": HOLDS,
    "E17": UNDECIDED,
    "E17b": HOLDS_WHEN,
    "E18": HOLDS,
    "E19": HOLDS_WHEN,
    "E19b": HOLDS_WHEN,
    "E20": HOLDS,
}


def test_every_experiment_is_tried_or_said_not_to_be(command):
    assert [experiment.number for experiment in WITH_ROWS] == list(FOUND)
    listed = command("evidence")[1]
    for experiment in ALL:
        assert (f"{experiment.number} not run yet: " in listed) == (experiment.number not in FOUND)


@pytest.mark.parametrize(**TRIED)
def test_the_committed_results_have_every_case_and_seed_and_a_verdict(experiment):
    rows = committed_rows(experiment)
    assert len(rows) == runs_of(experiment, about_committed()[experiment.number]["quick"])
    verdict = read_committed(experiment)
    assert verdict.outcome == FOUND[experiment.number]
    assert re.search(r"\d", verdict.sentence)


@pytest.mark.parametrize(**TRIED)
def test_rows_under_other_names_do_not_give_the_same_verdict(experiment):
    """A rule that would say the same of anything is none."""
    cases = experiment.cases
    turns = [dict(zip(cases, (*cases[k:], *cases[:k]), strict=True)) for k in range(1, len(cases))]
    turned = [[row | {"norm": other[row["norm"]]} for row in committed_rows(experiment)] for other in turns]
    reversed_names = dict(zip(cases, reversed(cases), strict=True))
    mirrored = [row | {"norm": reversed_names[row["norm"]]} for row in committed_rows(experiment)]
    sizes = dict(zip(experiment.sizes, reversed(experiment.sizes), strict=True))
    resized = [row | {"batch_size": sizes[row["batch_size"]]} for row in committed_rows(experiment)]
    verdicts = [judged(experiment, rows) for rows in (*turned, mirrored, resized)]
    assert any(verdict.outcome not in (HOLDS, HOLDS_WHEN) for verdict in verdicts)
    assert all(verdict.outcome in OUTCOMES for verdict in verdicts)


#: Numbers that show a claim which the committed ones do not, or not wholly: by case and batch size.
SHOWN = {
    "E7": lambda case, _: {
        "distance": 0.4 if case == "without" else 0.2,
        "slope": 10.0 if case == "without" else 1.0,
        "loss": 0.2 if case == "without" else 1.1,
        "gradient": 0.4,
    },
    "E9": lambda case, _: {"accuracy": 0.95 if case.startswith("NF") else 0.9},
    "E9b": lambda case, _: {"accuracy": 0.95 if case.startswith("NF") else 0.9},
    "E10": lambda case, _: {"accuracy": 0.95 if case.startswith("BatchNorm") else 0.9},
    "E10b": lambda case, _: {"accuracy": 0.95 if case.startswith("BatchNorm") else 0.9},
    "E11b": lambda case, _: {"accuracy": 0.9 if case.startswith("BN") else 0.95, "MMACs": 1.3},
    "E12": lambda case, _: {
        "longer": 0.9 if case.startswith("Layer") else 0.7,
        "accuracy": 0.1 if "step" in case else 0.9,
    },
    "E12b": lambda case, _: {
        "longer": 0.9 if case.startswith("Layer") else 0.7,
        "accuracy": 0.1 if "of a step" in case else 0.9,
    },
    "E13": lambda case, _: {"accuracy": 0.95 if case == "4" else 0.9, "training loss": 0.1 if case == "4" else 0.2},
    "E13b": lambda case, _: {
        "accuracy": 0.95 if case == "8" else 0.9,
        "accuracy on the part that chooses": 0.95 if case == "8" else 0.9,
        "training loss": 0.1 if case == "8" else 0.2,
    },
    "E17": lambda case, _: {"largest gradient": 100.0 if case.startswith("moving") else 1.0},
    "E17b": lambda case, _: {"largest gradient": 100.0 if case.startswith("moving") else 1.0},
    "E19": lambda case, _: {"error": 0.3 if case.startswith("Instance") else 0.6},
    "E19b": lambda case, size: {"left": left(case, size), "log left": math.log(left(case, size))},
}


def left(case, size):
    return 0.3 if case.startswith("Instance") else 0.3 + 1 / size


@pytest.mark.parametrize("number", SHOWN)
def test_a_rule_can_say_that_a_claim_holds(number):
    experiment = EXPERIMENTS[number]
    rows = [
        {"norm": case, "batch_size": size, "seed": seed, "status": "finished", "metrics": metrics}
        | {"value": metrics[experiment.metric]}
        for case in experiment.cases
        for size in experiment.sizes
        for metrics in [SHOWN[number](case, size)]
        for seed in range(6)
    ]
    assert judged(experiment, rows).outcome == HOLDS


@pytest.mark.parametrize(**TRIED)
def test_without_a_case_nothing_is_decided(experiment):
    rows = [row for row in committed_rows(experiment) if row["norm"] != experiment.cases[0]]
    assert judged(experiment, rows).outcome == UNDECIDED
    failed = [row | {"status": "failed", "message": "disk full"} for row in committed_rows(experiment)]
    verdict = judged(experiment, failed)
    assert (verdict.outcome, "disk full" in verdict.sentence) == (UNDECIDED, True)


@pytest.mark.parametrize(**TRIED)
def test_the_picture_says_in_words_what_it_shows(experiment):
    picture = experiment.picture(Results(committed_rows(experiment)))
    label = re.search(r'aria-label="([^"]+)"', picture)[1]
    assert len(re.findall(r"\d", label)) > 3
    assert "nan" not in picture.lower()
    names = re.findall(rf'<text x="{WIDTH - RIGHT + 10}" y="[\d.]+" style="[^"]*">([^<]*)', picture)
    assert all(len(name) <= 26 for name in names)  # what fits beside the lines
    titles = re.findall(r'<text x="8" y="20">([^<]*)', picture)
    assert titles
    assert all(len(title) <= 82 for title in titles)


@pytest.mark.parametrize(**TRIED)
def test_the_picture_is_headed_by_claim_and_verdict(experiment):
    rows = committed_rows(experiment)
    picture = picture_of(experiment, rows)
    verdict = judged(experiment, rows)
    heading = " ".join(re.findall(r'font-weight:bold">([^<]*)', picture))
    assert html.unescape(heading) == experiment.claim
    assert f"Found: {verdict.outcome}" in picture
    if verdict.outcome == HOLDS_WHEN:
        assert verdict.sentence.partition(" ")[0] in picture
    seeds = len({row["seed"] for row in rows})
    assert (f">{seeds} seeds" in picture) == (seeds > 1)
    assert ("; ±: standard deviation" in picture) == ("±" in experiment.picture(Results(rows)))


@pytest.mark.parametrize(**BY_NUMBER)
def test_what_a_reader_is_told(experiment):
    assert experiment.number in EXPERIMENTS
    assert re.search("[ぁ-ん]", experiment.claim_ja)
    assert set(experiment.said_in) <= {"000", "001", "002", "003"}
    assert experiment.rule.startswith("Holds")
    assert experiment.quick_seeds <= experiment.seeds
    assert experiment.quick_epochs <= experiment.epochs


@pytest.mark.parametrize("number", ["E2", "E15"])
def test_a_quick_run_gives_the_committed_verdict(number, tmp_path):
    experiment = EXPERIMENTS[number]
    rows = run_experiment(experiment, tmp_path, quick=True)
    assert judged(experiment, rows).outcome == FOUND[number]
    assert (tmp_path / f"{number}-quick" / "results.jsonl").exists()


def test_the_command_lists_runs_and_goes_on(command, tmp_path):
    code, output, errors = command("evidence")
    assert (code, errors) == (0, "")
    for number, outcome in FOUND.items():
        assert f"{number} {outcome}: " in output
    code, output, _ = command("evidence", "e2", "--quick", "--out", "out")
    assert code == 0
    assert "E2 holds when: BatchNorm at batch size 1 is InstanceNorm" in output
    assert (tmp_path / "out" / "E2-quick" / "E2.svg").read_text().startswith("<svg")
    code, output, _ = command("evidence", "E2", "--quick", "--out", "out", "--json")
    (found,) = json.loads(output)
    assert (found["number"], found["outcome"]) == ("E2", HOLDS_WHEN)
    assert found["rule"] == EXPERIMENTS["E2"].rule


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("E99",), "There is no experiment 'E99'; the experiments are E1, E1b, E2, "),
        (("E2", "--all"), "write one of them"),
    ],
)
def test_wrong_input(arguments, said, command):
    code, output, errors = command("evidence", *arguments)
    assert (code, output) == (2, "")
    assert said in errors


@pytest.mark.parametrize("number", EXPERIMENTS)
def test_an_experiment_is_found_in_small_and_capital_letters(number):
    assert find_experiment(number.lower()) is find_experiment(number.upper()) is EXPERIMENTS[number]


def test_intervals_are_students():
    rows = [
        {"norm": norm, "batch_size": 1, "seed": seed, "status": "finished", "value": value, "metrics": {}}
        for norm, values in {"a": (1.0, 2.0, 4.0), "b": (0.0, 1.5, 2.0)}.items()
        for seed, value in enumerate(values)
    ]
    low, high = Results(rows).interval("a", "b")
    half = 4.303 * math.sqrt(7 / 12) / math.sqrt(3)  # of the differences 1, 0.5, 2
    assert (low, high) == pytest.approx((3.5 / 3 - half, 3.5 / 3 + half))
    assert Results(rows[:1]).interval("a", "b") == (-math.inf, math.inf)
    assert student(1) == 12.706


def test_the_naive_layer_normalizes_by_its_averages():
    layer, x = MovingAverageNorm(3), torch.randn(8, 3) * 2 + 1
    for _ in range(400):
        layer(x)
    torch.testing.assert_close(layer.mean, x.mean(0))
    torch.testing.assert_close(layer(x).var(0), torch.ones(3), rtol=1e-4, atol=1e-4)
    x.requires_grad_()
    layer(x).sum().backward()
    torch.testing.assert_close(x.grad[0], (layer.var + 1e-5).rsqrt())  # nothing passes through the averages


@pytest.mark.parametrize("number", [experiment.number for experiment in ALL if experiment.exhibit])
def test_what_nets_have_made_is_shown_where_others_have_trained_them(number, monkeypatch):
    """With several processes, or after an interruption, the nets of the sheet are trained again for it."""

    class TrainedError(Exception):
        pass

    def trained(*_):
        assert torch.is_grad_enabled()
        raise TrainedError

    exhibit = EXPERIMENTS[number].exhibit
    monkeypatch.setattr(sys.modules[exhibit.__module__], "trained", trained)
    with pytest.raises(TrainedError):
        exhibit(1)
