"""A model folder as the repository of a model on huggingface.co."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import yaml

from medi2i.exchange.layout import OPTIONAL, body_of
from medi2i.exchange.licences import LICENCE, licence_identifier, licence_text
from medi2i.model import CARD, RECORD, WEIGHTS, Model, read_model

__all__ = ["fill_huggingface", "front_matter"]


def fill_huggingface(source: Path, folder: Path) -> Model:
    """Write the files of a repository: the model folder as it is, its card with the hub's header.

    Args:
        source: a model folder; its weights are verified.
        folder: is there, and empty.

    Returns:
        The model.

    Raises:
        ModelError: `source` is no whole model.
    """
    model = read_model(source)
    for name in (WEIGHTS, RECORD, *OPTIONAL):
        if (source / name).is_file() and name != CARD:
            shutil.copyfile(source / name, folder / name)
    (folder / LICENCE).write_text(licence_text(source, model.card), encoding="utf-8")
    header = yaml.safe_dump(front_matter(model), sort_keys=False, allow_unicode=True)
    own = source / CARD
    text = body_of(own.read_text(encoding="utf-8")) if own.is_file() else _card(model)
    (folder / CARD).write_text(f"---\n{header}---\n\n{text.strip()}\n\n{USE}", encoding="utf-8")
    return model


def front_matter(model: Model) -> dict[str, Any]:
    """The header of the card, by the hub's own keys."""
    licence = licence_identifier(model.card)
    named = {"license_name": "see-license-file", "license_link": LICENCE}
    return {
        "license": licence,
        **(named if licence == "other" else {}),
        "library_name": "medi2i",
        "pipeline_tag": "image-to-image",
        "tags": [
            *("medi2i", "medical", "MRI", "brain", "image-translation", model.system_name),
            *map(str, model.task.contrasts),
        ],
    }


def _card(model: Model) -> str:
    """For a model that came without a card."""
    said = "".join(f"- {key}: {value}\n" for key, value in model.card.items())
    return (
        f"# {model.name}: {model.task}\n\n"
        f"System `{model.system_name}`, {model.parameters:,} parameters.\n\n"
        "**For research, not for diagnosis. Its output is synthetic: lesions can be lost or "
        f"invented.**\n\n{said}"
    )


USE = """## How to use it

`model.json` describes the network and vouches for `weights.safetensors` by its sha256. Where medi2i
is installed, in a folder with these files:

```
medi2i translate scan.nii.gz --to t2 --model .
medi2i models install .            # from then on it is known by its name
```
"""
