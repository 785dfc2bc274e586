"""`medi2i models export`: what MONAI's own loader runs, and what a model hub accepts."""

from __future__ import annotations

import json
import pickletools
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

import medi2i
from medi2i.contrasts import Contrast
from medi2i.exchange.bundled import BundledNetwork
from medi2i.exchange.licences import licence_identifier
from medi2i.model import Model, build_system, read_model, write_model
from medi2i.task import Task, View
from tests.cli.conftest import Call, seen, write_scan

# MONAI warns of every configuration that it reads; ours is from a source that we trust.
pytestmark = [
    pytest.mark.filterwarnings("ignore:parsing config_file:UserWarning"),
    pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader:UserWarning"),
]

T1W, T2W, FLAIR = Contrast.T1W, Contrast.T2W, Contrast.FLAIR


def made(
    folder: Path,
    task: Task,
    view: View,
    *,
    system: str = "unet",
    arguments: dict[str, Any] | None = None,
    card: dict[str, Any] | None = None,
) -> Path:
    torch.manual_seed(0)
    given = {"features": [4, 8]} if arguments is None else arguments
    built = build_system(system, given, task, view).eval()
    return write_model(
        Model(folder.name, system, given, task, view, built, card=card or {}), folder
    )


def bundle(call: Call, model: Path, *options: object) -> Path:
    output = model.parent / "bundle"
    answer = call("models", "export", model, "--format", "monai-bundle", "-o", output, *options)
    assert answer.code == 0, answer.err
    return output


def run(folder: Path, scans: Path, output: Path, **changes: Any) -> medi2i.Volume:
    from monai.bundle.scripts import run as run_bundle

    run_bundle(
        config_file=str(folder / "configs" / "inference.json"),
        bundle_root=str(folder),
        dataset_dir=str(scans),
        output_dir=str(output),
        device="$torch.device('cpu')",
        **changes,
    )
    (path,) = output.iterdir()
    return medi2i.load_volume(path)


# ---- MONAI


def test_a_bundle_gives_the_voxels_of_translate(call: Call, tiny: Path, tmp_path: Path) -> None:
    pytest.importorskip("ignite", reason="MONAI's evaluator needs pytorch-ignite")
    scan = write_scan(tmp_path / "in" / "sub-1_T1w.nii.gz")
    model = tmp_path / "tiny"
    write_model(read_model(tiny), model)
    folder = bundle(call, model, "--from", "t1", "--to", "flair")
    for target, changes in (("FLAIR", {}), ("T2w", {"target": "T2w"})):
        result = run(folder, tmp_path / "in", tmp_path / target, **changes)
        expected = medi2i.translate(scan, to=target, model=tiny, device="cpu")
        assert np.array_equal(result.voxels, expected.voxels)
        np.testing.assert_allclose(result.affine, expected.affine, atol=1e-6)
        assert (tmp_path / target / f"sub-1_T1w_desc-synth_{target}.nii.gz").is_file()


def test_a_bundle_of_several_sources_and_slabs(call: Call, tmp_path: Path) -> None:
    pytest.importorskip("ignite", reason="MONAI's evaluator needs pytorch-ignite")
    view = View(slices=3, spacing=2.0)
    model = made(tmp_path / "joint", Task((T1W, FLAIR), (T2W,)), view)
    scans = [
        write_scan(tmp_path / "in" / f"sub-1_{contrast}.nii.gz", seed=seed)
        for seed, contrast in enumerate((T1W, FLAIR))
    ]
    result = run(bundle(call, model), tmp_path / "in", tmp_path / "out")
    expected = medi2i.translate(scans, to="t2", model=model, device="cpu")
    np.testing.assert_array_equal(result.voxels, expected.voxels)


def test_the_loader_gives_the_network_with_its_weights(call: Call, tmp_path: Path) -> None:
    from monai.bundle.scripts import load, verify_net_in_out

    view = View(dims=3, patch=16)
    task = Task((T1W, T2W, FLAIR), (T1W, T2W, FLAIR), on_demand=True)
    model = made(tmp_path / "solid", task, view)
    folder = bundle(call, model, "--from", "t2", "--to", "flair")
    network: Any = load(folder.name, bundle_dir=tmp_path, workflow_type="inference", device="cpu")
    window = torch.randn(2, 1, 16, 16, 16, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = read_model(model).system.translate(window, target=torch.tensor([2, 2]))
        assert torch.equal(network.eval()(window), expected)
    verify_net_in_out(
        net_id="network_def",
        meta_file=str(folder / "configs" / "metadata.json"),
        config_file=str(folder / "configs" / "inference.json"),
        device="cpu",
        any=16,
    )


def test_what_a_bundle_says_of_itself(call: Call, tmp_path: Path) -> None:
    """By MONAI's schema of 2024-07-25: its required keys, and those of a tensor."""
    card = {"licence": "Apache-2.0", "authors": "$ nobody"}
    task = Task((T1W, FLAIR), (T2W,))
    folder = bundle(call, made(tmp_path / "joint", task, View(slices=3), card=card))
    metadata = json.loads((folder / "configs" / "metadata.json").read_text())
    texts = ("schema", "version", "monai_version", "pytorch_version", "numpy_version", "task")
    for key in (*texts, "description", "authors", "copyright"):
        assert isinstance(metadata[key], str), key
        assert not metadata[key].startswith("$")
    assert metadata["required_packages_version"]["medi2i"] == medi2i.__version__
    tensors = metadata["network_data_format"]
    image, pred = tensors["inputs"]["image"], tensors["outputs"]["pred"]
    for tensor in (image, pred):
        assert (tensor["type"], tensor["format"], tensor["dtype"]) == (
            *("image", "magnitude"),
            "float32",
        )
        assert tensor["spatial_shape"] == ["*", "*"]
        assert tensor["value_range"] == [-1, 1]
        assert len(tensor["channel_def"]) == tensor["num_channels"]
    assert list(image["channel_def"].values()) == [
        *("T1w, slice -1", "T1w", "T1w, slice +1"),
        *("FLAIR, slice -1", "FLAIR", "FLAIR, slice +1"),
    ]
    assert pred["channel_def"] == {"0": "T2w"}
    readme = (folder / "docs" / "README.md").read_text()
    assert "whole pipe" in readme
    assert "not for diagnosis" in readme
    assert "Apache License" in (folder / "LICENSE").read_text()


def test_a_bundle_holds_no_code(call: Call, tmp_path: Path) -> None:
    folder = bundle(call, made(tmp_path / "tiny", Task((T1W,), (T2W,)), View()))
    with zipfile.ZipFile(folder / "models" / "model.pt") as packed:
        (pickled,) = (n for n in packed.namelist() if n.endswith(".pkl"))
        calls = {a for op, a, _ in pickletools.genops(packed.read(pickled)) if op.name == "GLOBAL"}
    assert calls <= {
        "collections OrderedDict",
        "torch._utils _rebuild_tensor_v2",
        "torch FloatStorage",
        "torch LongStorage",
    }
    assert not [path for path in folder.rglob("*") if path.suffix in (".py", ".pkl", ".ts")]


def test_memories_of_training_stay_behind() -> None:
    """What a pool of images holds is neither in the state nor expected in one."""
    task = {"sources": ["T1w"], "targets": ["T2w"]}
    parts: dict[str, Any] = {
        "name": "x",
        "system": "cyclegan",
        "arguments": {"features": 4, "blocks": 1, "patch": 1, "patch_features": 4, "pool": 3},
        "task": task,
        "view": {},
        "normaliser": "robust",
    }
    network = BundledNetwork(**parts)
    state = network.state_dict()
    lasting = network.system.lasting_state()
    assert set(state) == {f"system.{name}" for name in lasting}
    assert set(network.system.state_dict()) - set(lasting)
    other = BundledNetwork(**parts)
    other.load_state_dict(state)
    for name, tensor in other.system.lasting_state().items():
        assert torch.equal(tensor, lasting[name])


@pytest.mark.parametrize("text", ["$print('run')", "@device", "%file.json::x", "_target_"])
def test_a_text_that_monai_would_run_is_refused(call: Call, tiny: Path, text: str) -> None:
    folder = tiny.parent / f"named{len(text)}"
    model = read_model(tiny)
    model.name = text
    write_model(model, folder)
    output = folder.parent / "refused"
    answer = call("models", "export", folder, "--format", "monai-bundle", "-o", output)
    assert answer.code == 4
    assert "which MONAI would take for a command" in answer.err
    assert not output.exists()


def test_models_of_domains_are_no_bundles(call: Call, tmp_path: Path) -> None:
    task = Task((FLAIR,), (FLAIR,), domains=("healthy", "diseased"))
    model = made(
        tmp_path / "fixed",
        task,
        View(),
        system="fixed_point_gan",
        arguments={"features": 4, "blocks": 1, "discriminator_features": 4},
    )
    answer = call("models", "export", model, "--format", "monai-bundle", "-o", tmp_path / "out")
    assert answer.code == 2
    assert "hand this one on as a model folder or in the format huggingface" in answer.err


@pytest.mark.parametrize(
    ("options", "code", "says"),
    [
        (["--to", "t2"], 2, "--from and --to belong together"),
        (["--from", "t2", "--to", "t2"], 3, "T2w -> T2w was asked for"),
        (["--from", "pd", "--to", "t2"], 3, "PDw -> T2w was asked for"),
    ],
)
def test_pairs_that_are_none(
    call: Call, tiny: Path, tmp_path: Path, options: list[str], code: int, says: str
) -> None:
    out = tmp_path / "out"
    answer = call("models", "export", tiny, "--format", "monai-bundle", "-o", out, *options)
    assert (answer.code, says in answer.err) == (code, True), answer.err
    assert not out.exists()


# ---- Hugging Face


def test_a_model_hub_accepts_the_folder(call: Call, tmp_path: Path) -> None:
    huggingface_hub = pytest.importorskip("huggingface_hub")
    model = made(tmp_path / "tiny", Task((T1W,), (T2W,)), View(), card={"licence": "CC BY 4.0"})
    (model / "README.md").write_text("# The card\n\nIts scores.\n", encoding="utf-8")
    (model / "notes.txt").write_text("not for others")
    for source, name in ((model, "hub"), (tmp_path / "hub", "again")):
        output = tmp_path / name
        answer = call("models", "export", source, "--format", "huggingface", "-o", output)
        assert answer.code == 0, answer.err
        text = (output / "README.md").read_text(encoding="utf-8")
        card = huggingface_hub.ModelCard.load(output / "README.md")
        assert card.data.to_dict() == {
            "license": "cc-by-4.0",
            "library_name": "medi2i",
            "pipeline_tag": "image-to-image",
            "tags": [
                *("medi2i", "medical", "MRI", "brain", "image-translation", "unet"),
                *("T1w", "T2w"),
            ],
        }
        assert text.count("library_name") == 1  # a second export has one header, too
        assert "Its scores." in card.text
        assert sorted(path.name for path in output.iterdir()) == [
            *("LICENSE", "README.md", "model.json", "weights.safetensors"),
        ]
        assert read_model(output).sha256 == read_model(model).sha256
        assert "CC BY 4.0" in (output / "LICENSE").read_text()


@pytest.mark.parametrize(
    ("said", "identifier"),
    [
        ("Apache-2.0", "apache-2.0"),
        ("cc by-nc 4.0", "cc-by-nc-4.0"),
        ("that of whoever trained it", "other"),
        (" ", "unknown"),
        (None, "unknown"),
    ],
)
def test_licences_by_the_hubs_own_names(said: str | None, identifier: str) -> None:
    assert licence_identifier({"licence": said}) == identifier


def test_an_unknown_licence_is_told(call: Call, tiny: Path, tmp_path: Path) -> None:
    answer = call("models", "export", tiny, "--format", "huggingface", "-o", tmp_path / "out")
    assert "the card names no licence" in answer.err
    header = (tmp_path / "out" / "README.md").read_text().split("---\n")[1]
    assert yaml.safe_load(header)["license"] == "unknown"


# ---- whole or not at all


def test_nothing_half_written(
    call: Call, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    out = tmp_path / "a" / "out"
    answer = call("models", "export", tiny, "--format", "monai-bundle", "-o", out)
    assert answer.code == 3
    assert "the disk is full" in answer.err
    assert seen(tmp_path) == {}


def test_what_is_there_is_kept(call: Call, tiny: Path, tmp_path: Path) -> None:
    command = ("models", "export", tiny, "--format", "huggingface", "-o")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years")
    before = seen(tmp_path)
    for options, says in (((), "exists already"), (("--overwrite",), "is no exported model")):
        answer = call(*command, tmp_path / "mine", *options)
        assert answer.code == 3
        assert says in answer.err
    assert "holds the model itself" in call(*command, tiny, "--overwrite").err
    assert seen(tmp_path) == before
    assert call(*command, tmp_path / "out").code == 0
    (tmp_path / "out" / "old").touch()
    assert call(*command, tmp_path / "out", "--overwrite").code == 0
    assert not (tmp_path / "out" / "old").exists()
