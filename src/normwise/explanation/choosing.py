"""The path of `choices` as text, as the page docs/choose.md, and question by question."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Collection, Iterator
from typing import Any

from .choices import PATH, Advice, Branch, Question

HEAD = """# Which should I use?

Follow the questions; at the end of every path is a name, and the command that measures it on your own data. Nothing
here is a law: a link leads to the experiment that tried the statement, with its verdict, and "no evidence here" says
that none did. `normwise explain --choose` asks the same questions, and `normwise explain NAME` shows what a
normalizer does. This page is made from `normwise.explanation.choices` by `docs/make_choose.py`.
"""
_STEP = "  "


def lines(known: Collection[str], width: int) -> list[str]:
    """The whole path for a terminal; ``known`` are the existing experiments."""
    return list(_question(PATH, known, width, 0))


def _question(question: Question, known: Collection[str], width: int, depth: int) -> Iterator[str]:
    """The lines of a question and of the branches below it, indented by their depth."""
    yield from _filled(question.text, width, depth)
    for branch in question.branches:
        yield from _filled(f"- {branch.answer}", width, depth + 1)
        said = " ".join(filter(None, (branch.because, _evidence(branch, known))))
        if said:
            yield from _filled(said, width, depth + 2)
        if isinstance(branch.then, Question):
            yield from _question(branch.then, known, width, depth + 2)
        else:
            yield from _filled(f"=> {branch.then.use}", width, depth + 2)
            yield f"{_STEP * (depth + 2)}{branch.then.command}"


def _filled(words: str, width: int, depth: int) -> list[str]:
    indent = _STEP * depth
    return textwrap.wrap(words, width, initial_indent=indent, subsequent_indent=indent + _STEP)


def _evidence(branch: Branch, known: Collection[str], link: Callable[[str], str] = str) -> str:
    """The experiments that tested a branch, in parentheses; "" if the answer states nothing."""
    if not branch.because:
        return ""
    tried = [link(number) for number in branch.evidence if number in known]
    return f"({', '.join(tried)})" if tried else "(no evidence here)"


def _link(number: str) -> str:
    return f"[{number}](evidence.md#{number.lower()})"


def markdown(known: Collection[str]) -> str:
    """docs/choose.md."""
    return HEAD + "".join(_sections(PATH, known, "")) + _GLOSSARY


_GLOSSARY = """
## What is left

The measuring commands are explained in [compare](compare.md), [doctor](doctor.md), [stylize](stylize.md) and
[evidence](evidence.md); every name of a normalizer in [the normalizers](normalizers.md).
"""


def _sections(question: Question, known: Collection[str], path: str) -> Iterator[str]:
    """A section for each question; its path is the list of answers that lead to it."""
    yield f"\n## {question.text}\n\n" + (f"*{path}*\n\n" if path else "")
    for branch in question.branches:
        said = " ".join(filter(None, (branch.because, _evidence(branch, known, _link))))
        yield f"- **{branch.answer}.**" + (f" {said}" if said else "")
        if isinstance(branch.then, Advice):
            yield f"\n  Use **{branch.then.use}**, and measure it:\n\n  ```bash\n  {branch.then.command}\n  ```\n"
        else:
            yield f" → [{branch.then.text}](#{anchor(branch.then.text)})\n"
    for branch in question.branches:
        if isinstance(branch.then, Question):
            here = f"{path} → {branch.answer}" if path else branch.answer
            yield from _sections(branch.then, known, here)


def anchor(heading: str) -> str:
    """The anchor that Markdown gives a heading."""
    return "".join(c for c in heading.lower() if c.isalnum() or c in " -").replace(" ", "-")


def as_plain(known: Collection[str], question: Question = PATH) -> dict[str, Any]:
    """The path as plain dicts and lists, for JSON."""
    return {
        "question": question.text,
        "answers": [
            {
                "answer": branch.answer,
                "because": branch.because,
                "evidence": [number for number in branch.evidence if number in known],
                "then": branch.then._asdict() if isinstance(branch.then, Advice) else as_plain(known, branch.then),
            }
            for branch in question.branches
        ],
    }


def walk(ask: Callable[[Question], int], known: Collection[str]) -> list[str]:
    """Follow the path by ``ask``, which returns the index of a branch; returns the end of the path in lines."""
    question, reasons = PATH, []
    while True:
        branch = question.branches[ask(question)]
        if branch.because:
            reasons.append(f"{branch.because} {_evidence(branch, known)}")
        if isinstance(branch.then, Advice):
            return [*reasons, f"Use {branch.then.use}, and measure it:", f"  {branch.then.command}"]
        question = branch.then
