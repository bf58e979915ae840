"""A report as sections of tables, charts and pictures, written as HTML or Markdown."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

from d2_multitask.version import __version__

Cell = str | int | float

STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; --mark: 38 110 200; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }
h1, h2, h3 { line-height: 1.2; } h2 { margin-top: 2.5rem; border-bottom: 1px solid var(--line); }
nav a { margin-right: 1rem; white-space: nowrap; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: 600; padding: .25rem 0; }
th, td { padding: .2rem .7rem; border-bottom: 1px solid var(--line); text-align: right; }
th:first-child, td:first-child { text-align: left; } thead th { background: var(--soft); }
.charts { display: flex; flex-wrap: wrap; gap: 1rem; } figure { margin: 0; }
svg { width: 22rem; max-width: 100%; height: auto; } svg text { fill: currentColor; }
.pictures { display: grid; grid-template-columns: repeat(auto-fill, minmax(20rem, 1fr));
  gap: 1rem; margin-top: 1rem; }
.pictures img { width: 100%; border-radius: 4px; } figcaption { font-size: 85%; }
@media print { nav { display: none; } figure { break-inside: avoid; } }
"""


@dataclass
class Table:
    """Numbers in rows; floats are shown with one digit, NaN and values below 0 as "n/a".

    Attributes:
        caption: what it shows.
        headers: one for each column.
        rows: the first value names the row.
        shaded: whether a cell is as dark as its share of its row's sum (confusion matrices).
    """

    caption: str
    headers: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    shaded: bool = False


@dataclass
class Picture:
    """A JPEG file with a line of text."""

    jpeg: bytes
    caption: str


@dataclass
class Section:
    """A part of the page.

    Attributes:
        title: its heading; sections have different ones.
        text: a paragraph that says how to read it.
        tables: of numbers.
        charts: (caption, SVG) each; not in Markdown.
        pictures: not in Markdown, which lists their captions.
    """

    title: str
    text: str = ""
    tables: list[Table] = field(default_factory=list)
    charts: list[tuple[str, str]] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)


def shown(value: Cell) -> str:
    """A cell's text."""
    if not isinstance(value, float):
        return str(value)
    return f"{value:.1f}" if math.isfinite(value) and value >= 0 else "n/a"


def to_markdown(title: str, facts: Sequence[str], sections: Sequence[Section]) -> str:
    """The report without charts and pictures."""
    lines = [f"# {_plain(title)}", "", *(f"- {_plain(fact)}" for fact in facts), ""]
    for section in sections:
        lines += [f"## {_plain(section.title)}", ""]
        lines += [section.text, ""] if section.text else []
        for table in section.tables:
            columns = ["--", *["--:"] * (len(table.headers) - 1)]
            rows = [table.headers, columns, *([shown(v) for v in row] for row in table.rows)]
            lines += [f"{_plain(table.caption)}:", ""]
            lines += ["| " + " | ".join(map(_plain, row)) + " |" for row in rows]
            lines.append("")
        lines += [f"- {_plain(picture.caption)}" for picture in section.pictures]
        lines += [""] if section.pictures else []
    return "\n".join(lines)


def to_html(title: str, facts: Sequence[str], sections: Sequence[Section]) -> str:
    """The report as one file that needs no other."""
    links = [f'<a href="#{_anchor(s.title)}">{escape(s.title)}</a>' for s in sections]
    parts = [
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f'<meta name="generator" content="d2_multitask {__version__}">',
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>",
        f"<h1>{escape(title)}</h1><ul>",
        *(f"<li>{escape(fact)}</li>" for fact in facts),
        f"</ul><nav>{''.join(links)}</nav>",
        *map(_section_html, sections),
        "</body></html>",
    ]
    return "\n".join(parts) + "\n"


def _section_html(section: Section) -> str:
    parts = [f'<section id="{_anchor(section.title)}"><h2>{escape(section.title)}</h2>']
    if section.text:
        parts.append(f"<p>{escape(section.text)}</p>")
    parts += [_table_html(table) for table in section.tables]
    if section.charts:
        figures = (
            f"<figure>{svg}<figcaption>{escape(caption)}</figcaption></figure>"
            for caption, svg in section.charts
        )
        parts.append(f'<div class="charts">{"".join(figures)}</div>')
    if section.pictures:
        figures = (
            f'<figure><img loading="lazy" alt="{escape(picture.caption)}" '
            f'src="data:image/jpeg;base64,{base64.b64encode(picture.jpeg).decode()}">'
            f"<figcaption>{escape(picture.caption)}</figcaption></figure>"
            for picture in section.pictures
        )
        parts.append(f'<div class="pictures">{"".join(figures)}</div>')
    return "\n".join([*parts, "</section>"])


def _table_html(table: Table) -> str:
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in table.headers)
    rows = [f"<tr>{_row_html(row, table.shaded)}</tr>" for row in table.rows]
    return (
        f'<div class="wide"><table><caption>{escape(table.caption)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _row_html(row: Sequence[Cell], shaded: bool) -> str:
    first, *cells = row
    total = sum(cells) if shaded else 0
    styles = [
        f' style="background: rgb(var(--mark) / {0.7 * cell / total:.2f})"' if total else ""
        for cell in cells
    ]
    data = (f"<td{s}>{escape(shown(c))}</td>" for s, c in zip(styles, cells, strict=True))
    return f'<th scope="row">{escape(shown(first))}</th>' + "".join(data)


def _anchor(title: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in title.lower())


def _plain(text: str) -> str:
    """Text of others (names of classes and files) without Markdown's and HTML's signs."""
    text = text.replace("\\", "\\\\").replace("\n", " ").replace("|", "\\|")
    return text.replace("<", "&lt;").replace("`", "\\`")
