"""Reports in a headless Chromium, where there is one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from medi2i.report import find_viewer, report_on, write_index
from medi2i.report.viewer import HOW
from tests.report.chromium import Page, find_chromium, opened
from tests.report.conftest import Finished, finish
from tests.report.test_page import anomalies

VIEWER = "document.documentElement.dataset.viewer"


@pytest.fixture
def chromium() -> str:
    """Its path."""
    found = find_chromium()
    if found is None:
        pytest.skip("no Chromium or Chrome on the path")
    return found


@pytest.fixture(autouse=True)
def viewer() -> None:
    """NiiVue."""
    if find_viewer() is None:
        pytest.skip(f"NiiVue is not installed. {HOW}")


def clean(tab: Page) -> None:
    """No complaint in the console, nothing asked of a network, no foreign script ran."""
    assert tab.problems == []
    assert [r for r in tab.requests if not r.startswith(("file:", "data:", "blob:"))] == []
    assert tab.run("window.hacked") is None


def slide(tab: Page, slider: str, value: int) -> None:
    tab.run(
        f"(() => {{ const s = document.querySelector({json.dumps(slider)}); s.value = {value};"
        " s.dispatchEvent(new Event('input')); })()"
    )


@pytest.mark.slow
def test_the_viewer(chromium: str, finished: Finished) -> None:
    page = report_on(finished.scan).page
    with opened(chromium, page) as tab:
        assert tab.wait(VIEWER) == "ready"
        assert tab.run("document.getElementById('still').open") is False
        clean(tab)

        seen = {}
        for value in (0, 50, 100):
            slide(tab, "#blend", value)
            seen[value] = tab.picture("#blended")
        assert len(set(seen.values())) == 3  # the slider changes the canvas

        # One slider moves every panel, and each says what it holds there.
        before = tab.picture("#panel-1")
        for axis, share in enumerate((0.4, 0.6, 0.7)):
            slide(tab, f".place[data-axis='{axis}']", round(1000 * share))
        assert tab.picture("#panel-1") != before
        told = tab.run("[...document.querySelectorAll('.value')].map(o => Number(o.value))")
        shape = np.array(finished.volume("scan").shape)
        x, y, z = (int(n) for n in np.rint(shape * (0.4, 0.6, 0.7) - 0.5))
        for number, what in enumerate(("source", "scan")):
            voxels = finished.volume(what).voxels
            assert told[number] == pytest.approx(voxels[x, y, z], abs=float(np.ptp(voxels)) / 255)

        place = tab.run("document.getElementById('place').value")
        before = tab.picture("#panel-2")
        box = tab.run(
            "(() => { const e = document.getElementById('panel-0'); e.scrollIntoView();"
            " const r = e.getBoundingClientRect();"
            " return [r.x + r.width / 6, r.y + r.height / 3]; })()"
        )
        tab.say(
            "Input.dispatchMouseEvent", type="mouseWheel", x=box[0], y=box[1], deltaX=0, deltaY=120
        )
        tab.wait(f"document.getElementById('place').value !== '{place}'", 20)
        assert tab.picture("#panel-2") != before  # scrolling in one moves the others
        clean(tab)


@pytest.mark.slow
def test_a_page_of_lesions_opens_at_the_largest_and_goes_to_the_others(
    chromium: str, tmp_path: Path
) -> None:
    map_, _, _ = anomalies(tmp_path)
    with opened(chromium, report_on(map_).page) as tab:
        assert tab.wait(VIEWER) == "ready"
        place = "document.getElementById('place').value"
        assert near(tab.run(place)) == pytest.approx([-3.0, 4.5, 20.0], abs=0.11)
        tab.run("document.querySelectorAll('.go')[1].click()")
        assert near(tab.run(place)) == pytest.approx([1.0, 0.0, 9.0], abs=0.11)
        clean(tab)


def near(place: str) -> list[float]:
    """The millimetres of what the page says."""
    return [float(word) for word in place.split()[1::2]]


def test_a_list_is_sorted_and_pictures_stay_without_webgl(chromium: str, tmp_path: Path) -> None:
    entries = [
        report_on(one.scan, reference=one.reference)
        for one in (finish(tmp_path / name, name) for name in ("sub-02", "sub-01"))
    ]
    index = write_index(tmp_path / "index.html", entries)
    order = "[...document.querySelectorAll('tbody a')].map(a => a.textContent.slice(0, 6))"
    with opened(chromium, index, "--disable-3d-apis") as tab:
        assert tab.run(order) == ["sub-02", "sub-01"]
        click = "document.querySelectorAll('thead button')[0].click()"
        tab.run(click)
        assert tab.run(order) == ["sub-01", "sub-02"]
        tab.run(click)
        assert tab.run(order) == ["sub-02", "sub-01"]
        clean(tab)

        tab.go(tab.run("document.querySelector('tbody a').href"))
        assert tab.wait(VIEWER) == "failed"
        assert tab.run("document.getElementById('still').open") is True
        assert tab.run("document.getElementById('live').hidden") is True
        assert tab.run("document.querySelector('#still img').naturalWidth") >= 420
        assert tab.run("document.getElementById('still-why').innerText").endswith("(no WebGL 2)")
        clean(tab)
