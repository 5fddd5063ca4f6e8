"""The parts of the page as HTML; all text passes through `escape`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape

from plotly.io import to_html

from ..verdicts.cells import Row, title
from ..verdicts.summary import Summary
from ..verdicts.tables import DIVERGED, EMPTY, FAILED, Table, divergence_note, tables
from .palette import Style
from .pictures import Picture
from .words import About, definitions, settings_in_words

MOST_SHOWN = 7


def verdict(summary: Summary, remark: str | None) -> str:
    """The recommendation, its evidence (the first sentences, the rest folded) and a remark for the reader."""
    sentences = [f"<li>{_unbroken(sentence)}</li>" for sentence in summary.evidence]
    shown = len(sentences) if len(sentences) <= MOST_SHOWN + 1 else MOST_SHOWN
    rest = "".join(sentences[shown:])
    more = (
        f"<details><summary>{len(sentences) - shown} more findings</summary><ul>{rest}</ul></details>" if rest else ""
    )
    return (
        f'<section class="verdict" aria-label="Recommendation"><p class="headline">{_unbroken(summary.headline)}</p>'
        f"<ul>{''.join(sentences[:shown])}</ul>{more}"
        f"{f'<p class=quiet>{escape(remark)}</p>' if remark else ''}</section>"
    )


def _unbroken(sentence: str) -> str:
    """A sentence in which no line ends between a number and its unit."""
    return re.sub(r"(?<=\d) (?=(?:%|ms|MB|points?)(?!\w))", "&nbsp;", escape(sentence))


def repeat(command: str) -> str:
    """The command that repeats the sweep, in which no line ends within the name of an option."""
    unbroken = re.sub(r"--[\w-]+", r"<span>\g<0></span>", escape(command))
    return f'<h2>Repeat it</h2><pre class="command"><code>{unbroken}</code></pre>'


def numbers(summary: Summary) -> str:
    """All tables, with the meaning of their marks."""
    note = divergence_note(summary)
    return (
        f'<div class="tables">{"".join(map(_table, tables(summary)))}</div>'
        '<p class="quiet"><span class="star">★</span> best at its batch size, to the digits shown.'
        f"{' ' + escape(note) if note else ''}</p>"
    )


def _table(table: Table) -> str:
    head = "".join(f'<th scope="col">{size}</th>' for size in table.batch_sizes)
    body = "".join(
        f'<tr><th scope="row">{escape(title(norm))}</th>'
        f"{''.join(_cell(table, norm, size) for size in table.batch_sizes)}</tr>"
        for norm in table.norms
    )
    return (
        f'<div class="scroll"><table><caption>{escape(table.quantity.title)} <span>{table.quantity.unit}</span>'
        f"</caption>"
        f'<thead><tr><th scope="col">batch size</th>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def _cell(table: Table, norm: str, batch_size: int) -> str:
    text = with_spread(escape(table.text(norm, batch_size)))
    if table.is_best(norm, batch_size):
        return f'<td class="best"><span class="star" role="img" aria-label="best:">★</span>{text}</td>'
    kind = ' class="bad"' if text in (DIVERGED, FAILED) else ""
    return f"<td{kind}>{text}</td>"


def with_spread(text: str) -> str:
    """A cell's text with everything after the mean in a separate span."""
    figure, plus_minus, spread = text.partition(" ±")
    return f'{figure}<span class="spread">{plus_minus}{spread}</span>' if spread else text


def legend(norms: Iterable[str], styles: Mapping[str, Style]) -> str:
    """One legend for all pictures; a button shows or hides its normalizer everywhere."""
    buttons = "".join(
        f'<button type="button" aria-pressed="true" data-norm="{escape(norm)}">'
        f'<span aria-hidden="true" style="color:{styles[norm].color}">{styles[norm].glyph}</span>'
        f"{escape(title(norm))}</button>"
        for norm in norms
    )
    return f'<div class="legend" role="group" aria-label="Normalizers: press to show or hide">{buttons}</div>'


def pictures(shown: Sequence[Picture], group: str, small: bool = False) -> str:
    """Pictures side by side where there is room; `group` makes their element ids unique."""
    figures = "".join(
        f'<figure><h3>{escape(picture.title)}</h3><div role="img" aria-label="{escape(picture.alt)}">'
        f"{_plot(picture, f'{group}-{i}')}</div></figure>"
        for i, picture in enumerate(shown)
    )
    return f'<div class="pictures{" small" if small else ""}">{figures}</div>'


def _plot(picture: Picture, name: str) -> str:
    config = {"displayModeBar": False, "responsive": False}
    return to_html(
        picture.figure,
        config=config,
        include_plotlyjs=False,
        full_html=False,
        default_height=f"{picture.figure.layout.height}px",
        div_id=name,
    )


def chosen_rates(about: About) -> str:
    """The learning rate of each contestant, if they were chosen one by one."""
    chosen = {(norm, size): rate for norm, size, rate in about.get("chosen_rates", ())}
    if not chosen:
        return ""
    sizes = sorted({size for _, size in chosen})
    head = "".join(f'<th scope="col">{size}</th>' for size in sizes)
    rows = []
    for norm in dict.fromkeys(norm for norm, _ in chosen):
        found = (f"{chosen[norm, size]:g}" if (norm, size) in chosen else EMPTY for size in sizes)
        cells = "".join(f"<td>{rate}</td>" for rate in found)
        rows.append(f'<tr><th scope="row">{escape(title(norm))}</th>{cells}</tr>')
    return (
        '<div class="scroll"><table><caption>Learning rate that was chosen <span>peak at batch size 32 and above</span>'
        f'</caption><thead><tr><th scope="col">batch size</th>{head}</tr></thead><tbody>{"".join(rows)}</tbody>'
        "</table></div>"
    )


def protocol(rows: Sequence[Row], about: About, rule: str) -> str:
    """How it was measured: training protocol, definitions, data, machine and versions."""
    sentences = "".join(f"<li>{escape(sentence)}</li>" for sentence in about["protocol"])
    return (
        f"<ul>{sentences}<li>{escape(rule)}</li></ul><h3>What the quantities mean</h3>"
        f"{_terms(definitions(rows, about))}<h3>What it was measured on</h3>{_terms(settings_in_words(about))}"
    )


def ended_early(rows: Sequence[Row]) -> str:
    """One line for each run that diverged or failed, with its traceback; empty if none did."""
    parts = []
    for status, heading in (("diverged", "Diverged runs"), ("failed", "Failed runs")):
        items = "".join(map(_ended_run, [row for row in rows if row["status"] == status]))
        parts.append(f"<h3>{heading}</h3><ul>{items}</ul>" if items else "")
    return "".join(parts)


def _ended_run(row: Row) -> str:
    what = f"{escape(title(row['norm']))}, batch size {row['batch_size']}, seed {row['seed']}: {escape(row['message'])}"
    if not row.get("traceback"):
        return f"<li>{what}</li>"
    return f"<li>{what}<details><summary>Traceback</summary><pre>{escape(row['traceback'])}</pre></details></li>"


def _terms(pairs: Iterable[tuple[str, str]]) -> str:
    return f"<dl>{''.join(f'<dt>{escape(term)}</dt><dd>{escape(text)}</dd>' for term, text in pairs)}</dl>"
