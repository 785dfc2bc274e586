"""The volumes of a page: a viewer to scroll through them, and the same as a picture."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medi2i.report.html import Html, data_block, data_uri, element
from medi2i.report.panels import Kind, Panel, picture
from medi2i.report.viewer import HOW

__all__ = ["Place", "picture_part", "viewer_part", "voxel_at"]

Place = tuple[float, float, float]
"""RAS mm."""
SETUP = (
    "This browser cannot run the viewer (JavaScript and WebGL 2 are needed); the pictures below "
    "show the same volumes."
)
_PLANES = (("3", "three planes"), ("0", "axial"), ("1", "coronal"), ("2", "sagittal"))
_AXES = ("left to right", "back to front", "bottom to top")


def viewer_part(
    panels: Sequence[Panel],
    files: Sequence[bytes],
    spacing: tuple[float, float, float],
    at: Place | None = None,
) -> Html:
    """Canvases and controls, hidden until the viewer runs, and what it shows.

    Args:
        panels: on one grid.
        files: of their volumes.
        spacing: that these have, mm.
        at: where to look first.
    """
    upright = panels[0].volume
    plan = [
        {
            "caption": panel.caption,
            "kind": panel.kind.value,
            "window": [float(end) for end in panel.window()],
        }
        for panel in panels
    ]
    planes = [element("option", text, value=value) for value, text in _PLANES]
    sliders = [
        element(
            "label",
            _AXES[axis],
            element("input", type="range", class_="place", data_axis=axis, min=0, max=1000),
        )
        for axis in range(3)
    ]
    figures = [
        element(
            "figure",
            element("figcaption", panel.caption, element("output", class_="value"), _scale(panel)),
            element("div", element("canvas", id=f"panel-{number}"), class_="view"),
        )
        for number, panel in enumerate(panels)
    ]
    coarse = min(spacing) > 1.01 * min(upright.spacing)
    return element(
        "section",
        element(
            "div",
            element("label", "show ", element("select", *planes, id="plane")),
            *sliders,
            element("output", id="place"),
            class_="controls",
        ),
        element("div", *figures, class_="panels"),
        _blend_part(panels) if len(panels) > 1 else None,
        element(
            "p",
            "Scroll in any slice to move through all of them; drag with the right button to change "
            "the window. The patient's right is on the left."
            + (f" Shown at {' x '.join(f'{s:.2g}' for s in spacing)} mm." if coarse else ""),
            class_="hint",
        ),
        *(element("p", panel.note, class_="hint") for panel in panels if panel.note),
        data_block("plan", plan),
        *(data_block(f"volume-{number}", file) for number, file in enumerate(files)),
        id="live",
        data_at=None if at is None else " ".join(map(str, at)),
        hidden=True,
    )


def _scale(panel: Panel) -> Html | None:
    """What the ends of a coloured scale are."""
    if panel.kind is Kind.IMAGE:
        return None
    low, high = panel.window()
    return element("small", f"{low:.3g} to {high:.3g}", class_=f"scale {panel.kind}")


def _blend_part(panels: Sequence[Panel]) -> Html:
    def choice(name: str, chosen: int) -> Html:
        options = [
            element("option", panel.caption, value=number, selected=number == chosen)
            for number, panel in enumerate(panels)
        ]
        return element("select", *options, id=name, aria_label=f"{name} of the blend")

    return element(
        "figure",
        element(
            "figcaption",
            choice("under", 0),
            element(
                "input", type="range", id="blend", min=0, max=100, value=50, aria_label="blend"
            ),
            choice("over", 1),
        ),
        element("div", element("canvas", id="blended"), class_="view"),
        class_="blend",
    )


def voxel_at(panels: Sequence[Panel], at: Place) -> tuple[int, int, int]:
    """The voxel of the first panel, upright, that is nearest to a place."""
    upright = panels[0].volume.canonical()
    index = np.rint(np.linalg.solve(upright.affine, [*at, 1.0])[:3])
    x, y, z = np.clip(index, 0, np.array(upright.shape) - 1).astype(int).tolist()
    return x, y, z


def picture_part(panels: Sequence[Panel], viewer: bool, at: Place | None = None) -> Html:
    """The same volumes without a viewer: open until it runs.

    Args:
        at: where to cut; by default about the middle of the head.
    """
    captions = "; ".join(panel.caption for panel in panels)
    return element(
        "details",
        element("summary", "Pictures"),
        element("p", SETUP if viewer else HOW, class_="hint", id="still-why"),
        element("noscript", element("p", "Scrolling needs JavaScript.")) if viewer else None,
        element(
            "img",
            src=data_uri(picture(panels, at=None if at is None else voxel_at(panels, at))),
            alt=f"Three planes each: {captions}",
        ),
        id="still",
        open=True,
    )
