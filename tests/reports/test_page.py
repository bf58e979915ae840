"""Sections as HTML and Markdown: the same numbers, and no text of others is code."""

from __future__ import annotations

import re
from html.parser import HTMLParser

from d2_multitask.reports.page import Picture, Section, Table, to_html, to_markdown

EVIL = '<script>alert("1")</script>|`x`'


class Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags, self.texts = [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.texts.append(data)


def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    return reader


def section() -> Section:
    rows = [["person", 12.345, 3], [EVIL, float("nan"), 0], ["dog", -100.0, 1]]
    table = Table("Each class", ["class", "AP", "objects"], rows)
    return Section("Boxes", "How to read it.", [table], [], [Picture(b"\xff\xd8jpeg", EVIL)])


def test_html_shows_every_cell_and_runs_no_text():
    reader = read(to_html(EVIL, [EVIL], [section()]))
    assert "script" not in {tag for tag, _ in reader.tags}
    assert reader.texts.count(EVIL) == 5  # title, heading, fact, cell, caption of the picture
    for text in ("person", "12.3", "3", "n/a", "How to read it."):
        assert text in reader.texts
    images = [attrs["src"] for tag, attrs in reader.tags if tag == "img"]
    assert images == ["data:image/jpeg;base64,/9hqcGVn"]


def test_html_needs_no_other_file_and_its_links_lead_to_its_sections():
    reader = read(to_html("title", [], [section(), Section("Semantic segmentation")]))
    sources = [a.get("src", "") for _, a in reader.tags]
    assert all(source.startswith("data:") for source in sources if source)
    assert not [tag for tag, _ in reader.tags if tag == "link"]
    links = [attrs["href"].removeprefix("#") for tag, attrs in reader.tags if tag == "a"]
    assert links == [attrs["id"] for tag, attrs in reader.tags if tag == "section"]


def test_markdown_has_the_same_numbers():
    text = to_markdown("title", ["fact"], [section()])
    assert "| person | 12.3 | 3 |" in text
    assert "| dog | n/a | 1 |" in text
    assert "<script>" not in text
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {4}


def test_a_row_of_a_confusion_matrix_is_shaded_by_its_shares():
    table = Table("Confusion", ["", "a", "b"], [["a", 3, 1], ["b", 0, 0]], shaded=True)
    styles = re.findall(r"var\(--mark\) / ([0-9.]+)", to_html("t", [], [Section("s", "", [table])]))
    assert [float(style) for style in styles] == [0.52, 0.17]  # 0.7 of 3/4 and of 1/4
