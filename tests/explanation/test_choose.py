"""Which should I use: the page and the command are of one path, and every branch leads somewhere."""

import json
import re
import shlex
from pathlib import Path

import pytest

from normwise.cli.app import COMMANDS
from normwise.comparison.contestants.token_layers import is_for_tokens
from normwise.evidence.catalogue import EXPERIMENTS
from normwise.explanation.choices import PATH, Advice, Question
from normwise.explanation.choosing import lines, markdown, walk
from normwise.layers import NORMALIZERS

DOCS = Path(__file__).parents[2] / "docs"
NUMBER = re.compile(r"E([1-9]|1[0-9]|20)b?")


def branches(question=PATH):
    for branch in question.branches:
        yield branch
        if isinstance(branch.then, Question):
            yield from branches(branch.then)


ADVICE = [branch.then for branch in branches() if isinstance(branch.then, Advice)]


def test_the_page_is_made_of_the_path():
    assert (DOCS / "choose.md").read_text() == markdown(EXPERIMENTS), "write it again: python docs/make_choose.py"


def test_every_link_exists():
    page = (DOCS / "choose.md").read_text()
    headings = {
        name.name: {
            re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")
            for heading in re.findall(r"^#+ (.+)$", name.read_text(), re.MULTILINE)
        }
        for name in DOCS.glob("*.md")
    }
    links = re.findall(r"\]\(([^)#]*)(?:#([^)]+))?\)", page)
    assert len(links) > 10
    for file, anchor in links:
        assert (file or "choose.md") in headings, file
        assert not anchor or anchor in headings[file or "choose.md"], anchor


def test_every_branch_that_states_something_has_evidence_or_says_that_there_is_none():
    page, text = (DOCS / "choose.md").read_text(), " ".join(" ".join(lines(EXPERIMENTS, 100)).split())
    for branch in branches():
        assert all(NUMBER.fullmatch(number) for number in branch.evidence)
        if not branch.because:
            assert branch.evidence == ()
            continue
        known = [number for number in branch.evidence if number in EXPERIMENTS]
        said = f"{branch.because} ({', '.join(known) or 'no evidence here'})"
        assert " ".join(said.split()) in text
        linked = ", ".join(f"[{number}](evidence.md#{number.lower()})" for number in known)
        assert f"{branch.because} ({linked or 'no evidence here'})" in page


@pytest.mark.parametrize("advice", ADVICE, ids=lambda advice: advice.use)
def test_a_path_ends_in_a_command_that_there_is(advice, command):
    program, name, *rest = shlex.split(advice.command)
    assert (program, name in COMMANDS) == ("normwise", True)
    words = [name, *rest[:1]] if name == "stylize" and rest[0] in ("train", "contrast") else [name]
    code, text, _ = command(*words, "--help", columns=200)
    assert code == 0
    options = {word for word in rest if word.startswith("--")}
    assert options
    assert all(re.search(rf"{option}\b", text) for option in options)
    for norm in advice.norms:
        assert norm in (*NORMALIZERS, "nf", "bank")
    if "--norms" in rest:
        asked = rest[rest.index("--norms") + 1].split(",")
        assert tuple(asked) == advice.norms
        takes = {n for n, row in NORMALIZERS.items() if row.for_channels} | set(filter(is_for_tokens, NORMALIZERS))
        assert set(asked) <= takes | {"nf", "bank"}


def test_the_command_shows_the_path(command):
    code, output, _ = command("explain", "--choose")
    assert (code, output.splitlines()) == (0, lines(EXPERIMENTS, 80))
    code, output, _ = command("explain", "--choose", "--json")
    path = json.loads(output)
    assert path["question"] == PATH.text
    assert path["answers"][0]["then"]["answers"][2]["then"]["norms"][0] == "instance"


def test_question_by_question():
    asked = []

    def ask(question):
        asked.append(question.text)
        return {0: 0, 1: 0, 2: 4}[len(asked) - 1]

    told = walk(ask, EXPERIMENTS)
    assert len(asked) == 3
    assert "BatchNorm is InstanceNorm in training then" in told[1]
    assert shlex.split(told[-1])[-4:] == ["--norms", "group,instance,filter-response,nf", "--batch-sizes", "1,2"]
