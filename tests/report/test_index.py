"""Lists of reports, and the command that makes them."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest
from typer.testing import CliRunner

from medi2i.cli import app
from medi2i.errors import UsageError
from medi2i.report import Entry, find_finished, write_index
from tests.report.conftest import EVIL, Parsed, finish


class _Cells(HTMLParser):
    """The cells of each line of a table's body."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.lines: list[list[dict[str, str | None]]] = []
        self.feed(page.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "tr":
            self.lines.append([])
        elif tag == "td":
            self.lines[-1].append(dict(attrs))


def test_two_reports(tmp_path: Path) -> None:
    one = Entry(tmp_path / "a b#.html", "T2w", f"x {EVIL}", figures={"SSIM": 0.75})
    two = Entry(tmp_path / "sub" / "c.html", "T2w", "y", warnings=(EVIL, "moved"))
    page = write_index(tmp_path / "index.html", [one, two])
    parsed = Parsed(page)
    links = [link["href"] or "" for link in parsed.all("a")]
    assert [page.parent / unquote(link) for link in links] == [one.page, two.page]
    assert links == ["a%20b%23.html", "sub/c.html"]
    assert set(parsed.scripts) == {""}
    assert f"x {EVIL}" in parsed.text
    sorts = [[cell.get("data-sort") for cell in line if "data-sort" in cell] for line in
             _Cells(page).lines[1:]]  # fmt: skip
    assert sorts == [["0.75", "0"], ["", "2"]]


def test_no_reports_no_list(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no reports"):
        write_index(tmp_path / "index.html", [])


def test_a_folder_of_translations(tmp_path: Path) -> None:
    scans, pages = tmp_path / "scans", tmp_path / "pages"
    both = [finish(scans / person, person) for person in ("sub-01", "sub-02")]
    assert find_finished([scans]) == [one.scan for one in both]
    command = ["report", str(scans), "-o", str(pages), "--reference", str(scans), "--json"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    rows = json.loads(result.stdout)
    assert [row["status"] for row in rows] == ["done", "done"]
    index = Parsed(pages / "index.html")
    links = [pages / unquote(link["href"] or "") for link in index.all("a")]
    assert sorted(links) == sorted(Path(row["output"]) for row in rows)
    assert all(link.is_file() for link in links)
    assert len(index.all("img")) == 2
    assert "PSNR, dB" in index.text
    again = CliRunner().invoke(app, command)
    assert again.exit_code == 3
    assert "--overwrite" in again.stderr
    assert CliRunner().invoke(app, [*command, "--overwrite"]).exit_code == 0


def test_one_bad_input_does_not_stop_the_others(tmp_path: Path) -> None:
    good = finish(tmp_path, "sub-01")
    result = CliRunner().invoke(app, ["report", str(good.scan), str(good.source)])
    assert result.exit_code == 1
    assert "side-car" in result.stderr
    assert (tmp_path / "sub-01_desc-synth_T2w_report.html").is_file()


def test_a_folder_without_translations(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["report", str(tmp_path)])
    assert result.exit_code == 3
    assert "no finished translation" in result.stderr
