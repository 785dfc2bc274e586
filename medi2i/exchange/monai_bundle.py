"""A model folder as a MONAI bundle (docs.monai.io, "MONAI Bundle Specification").

The bundle holds settings and tensors, no code: its configuration names the classes of
:mod:`medi2i.exchange.bundled`, so medi2i has to be installed where it runs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from medi2i import __version__
from medi2i.contrasts import Contrast
from medi2i.errors import ModelError, UsageError
from medi2i.exchange.bundled import BundledNetwork
from medi2i.exchange.layout import BUNDLED_CARD, BUNDLED_RECORD, CHECKPOINT, body_of
from medi2i.exchange.licences import LICENCE, licence_text
from medi2i.files import write_whole
from medi2i.model import CARD, Model, read_model, read_record

__all__ = ["fill_monai_bundle"]

_SCHEMA = (
    "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/"
    "meta_schema_20240725.json"
)
_BUNDLED = "medi2i.exchange.bundled"
_SIGNS = ("$", "@", "%", "+", "_target_", "_requires_", "_disabled_", "_mode_", "_desc_")
"""How texts begin that MONAI takes for more than a text."""


def fill_monai_bundle(
    source: Path, folder: Path, *, pair: tuple[Contrast, Contrast] | None = None
) -> Model:
    """Write the files of a bundle.

    Args:
        source: a model folder; its weights are verified.
        folder: is there, and empty.
        pair: which source and target the bundle is set to, where the model serves several; by
            default the first pair of its task.

    Returns:
        The model.

    Raises:
        ModelError: `source` is no whole model, or holds texts that MONAI would run.
        UsageError: a model of domains, or a pair for a model that has but one.
        ContrastError: the model does not serve the pair.
    """
    model, record = read_model(source), read_record(source)
    if pair is not None and not model.task.on_demand:
        raise UsageError(f'model "{model.name}" turns {model.task} and nothing else; give no pair')
    if model.task.on_demand and pair is None:
        (first,), (second,) = model.task.pairs()[0]
        pair = first, second
    definition: dict[str, Any] = {
        "name": model.name,
        **{key: record[key] for key in ("system", "arguments", "task", "view", "normaliser")},
    }
    _check_texts(definition, source)
    ends: dict[str, Any] = {} if pair is None else {"source": str(pair[0]), "target": str(pair[1])}
    network = BundledNetwork(**definition, **ends)
    network.system.load_lasting_state(model.system.lasting_state())
    for part in ("configs", "models", "docs"):
        (folder / part).mkdir()
    torch.save(dict(network.state_dict()), folder / CHECKPOINT)
    _write_json(folder / "configs" / "metadata.json", _metadata(model, network))
    _write_json(folder / "configs" / "inference.json", _inference(network, definition, ends))
    _write_json(folder / BUNDLED_RECORD, record)
    card = source / CARD
    if card.is_file():
        write_whole(folder / BUNDLED_CARD, body_of(card.read_text(encoding="utf-8")))
    write_whole(folder / "docs" / "README.md", _readme(model, network, card=card.is_file()))
    write_whole(folder / LICENCE, licence_text(source, model.card))
    return model


def _inference(
    network: BundledNetwork, definition: Mapping[str, Any], ends: Mapping[str, str]
) -> dict[str, Any]:
    """configs/inference.json: files in, MONAI's evaluator around our inferer, files out."""
    first, *others = map(str, network.sources)
    places = "os.path.join(@dataset_dir, '**', '*_' + @source + '.nii*')"
    found = f"sorted(glob.glob({places}, recursive=True))"
    if others:
        swapped = [f"f.replace('_{first}.', '_{other}.')" for other in others]
        images = f"$[{{'image': [f, {', '.join(swapped)}]}} for f in {found}]"
    else:
        images = f"$[{{'image': f}} for f in {found}]"
    made = "'_' + @target" if ends else repr("_" + "+".join(map(str, network.targets)))
    return {
        "imports": ["$import glob", "$import os"],
        "bundle_root": ".",
        "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
        "ckpt_path": "$os.path.join(@bundle_root, 'models', 'model.pt')",
        "dataset_dir": ".",
        "output_dir": "$os.path.join(@bundle_root, 'eval')",
        "source": first,
        **({"target": ends["target"]} if ends else {}),
        "datalist": images,
        "network_def": {
            "_target_": f"{_BUNDLED}.BundledNetwork",
            **definition,
            **{end: f"@{end}" for end in ends},
        },
        "network": "$@network_def.to(@device)",
        "preprocessing": {
            "_target_": "Compose",
            "transforms": [
                {
                    "_target_": "LoadImaged",
                    "keys": "image",
                    "reader": "NibabelReader",
                    "ensure_channel_first": True,
                },
                {"_target_": "EnsureTyped", "keys": "image", "device": "@device"},
            ],
        },
        "dataset": {"_target_": "Dataset", "data": "@datalist", "transform": "@preprocessing"},
        "dataloader": {"_target_": "DataLoader", "dataset": "@dataset", "batch_size": 1},
        "inferer": {"_target_": f"{_BUNDLED}.WholePipe"},
        "postprocessing": {
            "_target_": "Compose",
            "transforms": [
                {
                    "_target_": "SaveImaged",
                    "keys": "pred",
                    "output_dir": "@output_dir",
                    "output_postfix": f"$'desc-synth' + {made}",
                    "separate_folder": False,
                }
            ],
        },
        "handlers": [
            {
                "_target_": "CheckpointLoader",
                "load_path": "@ckpt_path",
                "load_dict": {"model": "@network"},
                "map_location": "@device",
            }
        ],
        "evaluator": {
            "_target_": "SupervisedEvaluator",
            "device": "@device",
            "val_data_loader": "@dataloader",
            "network": "@network",
            "inferer": "@inferer",
            "postprocessing": "@postprocessing",
            "val_handlers": "@handlers",
        },
        "run": ["$@evaluator.run()"],
    }


def _metadata(model: Model, network: BundledNetwork) -> dict[str, Any]:
    """configs/metadata.json, by MONAI's schema of 2024-07-25."""
    view, task = model.view, model.task
    seen = ["any of " + ", ".join(map(str, task.sources))] if task.on_demand else task.sources
    offsets = [f", slice {k:+d}" if k else "" for k in _around(view.slices)]
    inputs = [f"{contrast}{offset}" for contrast in seen for offset in offsets]
    outputs = ["the target"] if task.on_demand else [str(target) for target in network.targets]
    what = "axial slices" if view.slices == 1 else f"slabs of {view.slices} axial slices"
    return {
        "schema": _SCHEMA,
        "version": "1.0.0",
        "changelog": {"1.0.0": f"exported by medi2i {__version__}; sha256 {model.sha256}"},
        "monai_version": version("monai"),
        "pytorch_version": version("torch").partition("+")[0],
        "numpy_version": version("numpy"),
        "required_packages_version": {
            "medi2i": __version__,
            "nibabel": version("nibabel"),
            "pytorch-ignite": "0.5.0",
        },
        "task": f"MRI contrasts of the brain: {task}",
        "description": f"System {model.system_name} of medi2i for {task}. The output is synthetic:"
        " lesions can be lost or invented. docs/README.md says what of medi2i's pipe is in here.",
        "authors": _said(model, "authors"),
        "copyright": _said(model, "copyright"),
        "intended_use": "Research. Not for diagnosis.",
        "data_type": "nibabel",
        "image_classes": "windows whose intensities were fitted to [-1, 1]",
        "pred_classes": "the same windows in the target contrast, around [-1, 1]",
        "network_data_format": {
            "inputs": {"image": _tensor(inputs, view.dims, "windows" if view.dims == 3 else what)},
            "outputs": {"pred": _tensor(outputs, view.dims, "images")},
        },
    }


def _tensor(channels: Sequence[str], dims: int, what: str) -> dict[str, Any]:
    return {
        "type": "image",
        "format": "magnitude",
        "modality": "MR",
        "description": what,
        "num_channels": len(channels),
        "spatial_shape": ["*"] * dims,
        "dtype": "float32",
        "value_range": [-1, 1],
        "is_patch_data": True,
        "channel_def": {str(number): channel for number, channel in enumerate(channels)},
    }


def _around(slices: int) -> range:
    return range(-(slices // 2), slices // 2 + 1)


def _said(model: Model, key: str) -> str:
    said = model.card.get(key)
    return f"As its card says: {said}" if said else "Not said in the card of the model."


def _check_texts(part: Any, source: Path) -> None:
    """Raise ModelError for a text that MONAI would run, look up or build."""
    if isinstance(part, Mapping):
        for key, value in part.items():
            _check_texts(key, source)
            _check_texts(value, source)
    elif isinstance(part, str):
        if part.startswith(_SIGNS) or "::" in part or "#" in part:
            raise ModelError(
                f'model "{source}" holds the text "{part}", which MONAI would take for a command; '
                "rename it in model.json"
            )
    elif isinstance(part, Sequence):
        for value in part:
            _check_texts(value, source)


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    write_whole(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def _readme(model: Model, network: BundledNetwork, *, card: bool) -> str:
    first, *others = map(str, network.sources)
    where = f"all scans below it whose names end in `_{first}.nii` or `_{first}.nii.gz`"
    if others:
        where += f", each with {' and '.join(f'`_{other}`' for other in others)} beside it"
    choose = (
        f"It is set to {first} -> {network.targets[0]}; `--source` and `--target` choose another\n"
        f"pair of {model.task}. "
        if model.task.on_demand
        else ""
    )
    about = "Its card is in `model_card.md`." if card else "The model came without a card."
    return f"""# {model.name}: {model.task}

A MONAI bundle of a model of medi2i, system `{model.system_name}`, {model.parameters:,} parameters.
{about}

**For research, not for diagnosis. Its output is synthetic: lesions can be lost or invented.**

## Run it

With medi2i {__version__}, pytorch-ignite and fire installed, in this folder:

```
python -m monai.bundle run --config_file configs/inference.json --dataset_dir SCANS --output_dir OUT
```

`SCANS` is a folder; taken are {where}.
{choose}What is written ends in `_desc-synth_...nii.gz`.

`monai.bundle.load(NAME, bundle_dir=FOLDER, workflow_type="inference")` gives the network with its
weights.

## What is in it, and what is not

- `network_def` is the network alone: windows with intensities around [-1, 1] go in and come out, as
  `network_data_format` in `metadata.json` has it. `models/model.pt` holds its tensors and nothing
  that runs; the classes come from medi2i.
- `inferer` is medi2i's whole pipe around it: fitting the intensities of each scan
  (`{model.normaliser}`), canonical axes, resampling where the scan is finer or coarser than the
  network knows, windows, and all of that undone. The result is, voxel by voxel, that of
  `medi2i translate` in one look (`--quality fast`).
- Not in it: recognising the contrast of a scan (its name decides), bringing several sources onto
  one grid (they must be on one), reading DICOM, warnings, and the side-car that marks a scan as
  synthetic: here only its name does.
- `configs/medi2i.json` is the record of the model; `medi2i models install .` takes the bundle back.
"""
