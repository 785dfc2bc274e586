"""``medi2i demo``: the main job on a head that needs no data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medi2i.cli.console import Device, DeviceName, ends_well, err, out

__all__ = ["demo"]


@ends_well
def demo(
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder.")] = Path("medi2i-demo"),
    seed: Annotated[int, typer.Option(min=0, help="Of the head.")] = 0,
    device: Device = DeviceName.AUTO,
) -> None:
    """Simulate a head, translate its T1w scan, score and draw it.

    Everything is made on the spot: a head of simple shapes, scanned by the signal equations with
    the flaws of a scanner. Scores on it show that the tool works, not how well it does on people.
    """
    from medi2i.contrasts import Contrast
    from medi2i.evaluation import Case, compare
    from medi2i.figures import three_planes
    from medi2i.files import atomic_write, check_writable
    from medi2i.formats.names import synthetic_name
    from medi2i.formats.synthetic import save_synthetic
    from medi2i.inference.translate import choose_device, run_model
    from medi2i.simulate import Style, simulate
    from medi2i.simulate.examination import Shown
    from medi2i.volume import save_volume
    from medi2i.zoo import find_model, load_model

    source, target = Contrast.T1W, Contrast.T2W
    choose_device(device)
    check_writable(output / "preview.png")
    model = load_model(find_model((source,), target))
    with err.status("simulating a head"):
        person = simulate(seed, contrasts=(source, target), style=Style.VOLUMETRIC, head=Shown.ON)
        scans = person.scans
        paths = {
            contrast: save_volume(
                scan, output / f"sub-phantom{seed}_{contrast}.nii.gz", overwrite=True
            )
            for contrast, scan in scans.items()
        }
    with err.status("translating"):
        result = run_model(model, {source: scans[source]}, target, device=device)
    synthetic = output / synthetic_name(paths[source], target)
    save_synthetic(
        synthetic, model, {source: paths[source]}, target, result, device=device, overwrite=True
    )
    with err.status("scoring"):
        case = Case(
            name=f"phantom {seed}",
            task=f"{source}->{target}",
            predictions={model.name: result.volume},
            target=scans[target],
            source=scans[source],
            mask=person.brain,
        )
        table = compare([case])
    table.to_csv(output / "scores.csv", overwrite=True)
    table.to_json(output / "scores.json", overwrite=True)
    rows = {
        f"source {source}": scans[source],
        f"SYNTHETIC {target}": result.volume,
        f"simulated {target}": scans[target],
    }
    picture = three_planes([(title, v.voxels, v.spacing) for title, v in rows.items()])
    drawn = output / "preview.png"
    atomic_write(drawn, lambda stream: picture.save(stream, format="PNG"), overwrite=True)
    out.print(table.to_rich())
    for path in (synthetic, drawn, output / "scores.csv"):
        out.print(str(path), markup=False, soft_wrap=True)
