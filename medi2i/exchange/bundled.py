"""What an exported MONAI bundle is made of: the network, and an inferer with medi2i's whole pipe.

A bundle's ``configs/inference.json`` names these classes; MONAI builds them from it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from monai.inferers.inferer import Inferer
from torch import Tensor, nn

from medi2i.config import build
from medi2i.contrasts import Contrast
from medi2i.errors import ContrastError, DimensionError, UsageError
from medi2i.inference.translate import run_model
from medi2i.model import Model, build_system
from medi2i.normalise import Normaliser
from medi2i.systems import Translator
from medi2i.task import Task, View
from medi2i.volume import Volume

__all__ = ["BundledNetwork", "WholePipe"]


class BundledNetwork(nn.Module):
    """The network of a model, from normalised windows to normalised windows.

    Its state is what translating needs: what a system remembers of its training is neither
    written nor expected.

    Args:
        name, system, arguments, task, view, normaliser: as in model.json.
        source, target: which pair of an on-demand task; None where the task is fixed.

    Raises:
        ContrastError: the model does not turn that source into that target.
        UsageError: a model of domains, whose images are asked for by name, not by contrast.
    """

    def __init__(
        self,
        *,
        name: str,
        system: str,
        arguments: Mapping[str, Any],
        task: Mapping[str, Any],
        view: Mapping[str, Any],
        normaliser: Normaliser,
        source: str | None = None,
        target: str | None = None,
    ) -> None:
        super().__init__()
        built = build(Task, dict(task), where=f'task of model "{name}"')
        seen = build(View, dict(view), where=f'view of model "{name}"')
        if built.domains:
            raise UsageError(
                f'model "{name}" turns {built}; a bundle holds models of contrasts only: hand '
                "this one on as a model folder or in the format huggingface"
            )
        if built.on_demand:
            pair = _contrast(source, "source", name), _contrast(target, "target", name)
            if ((pair[0],), (pair[1],)) not in built.pairs():
                raise ContrastError(
                    f'model "{name}" turns {built}; {pair[0]} -> {pair[1]} was asked for'
                )
        self.sources = (pair[0],) if built.on_demand else built.sources
        self.targets = (pair[1],) if built.on_demand else built.targets
        self.asked = built.targets.index(pair[1]) if built.on_demand else None
        self.system = build_system(system, dict(arguments), built, seen)
        self.model = Model(
            name, system, dict(arguments), built, seen, self.system, normaliser=normaliser
        )
        nn.Module.register_state_dict_post_hook(self, _forget)
        nn.Module.register_load_state_dict_pre_hook(self, _remember)

    def forward(self, source: Tensor) -> Tensor:
        """(B, inputs * slices, *spatial) -> (B, outputs, *spatial), both around [-1, 1]."""
        if self.asked is None:
            return self.system.translate(source)
        asked = torch.full((len(source),), self.asked, device=source.device)
        return self.system.translate(source, target=asked)


class WholePipe(Inferer):
    """Scans as they were acquired -> synthetic scans on their grid and intensity scale.

    Does what ``medi2i translate`` does with a scan: fits its intensities, brings it to canonical
    axes and the resolution that the network knows, cuts it into windows, and undoes all that.
    """

    def __call__(
        self, inputs: Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Tensor:
        """Translate.

        Args:
            inputs: (B, C, X, Y, Z), one channel for each source contrast, all on one grid, in any
                unit; the affine (RAS) of a MetaTensor counts.
            network: the bundle's `BundledNetwork`.
            args, kwargs: not used.

        Returns:
            (B, K, X, Y, Z), one channel for each target; a MetaTensor where one came.

        Raises:
            DimensionError: another shape. UsageError: another network.
        """
        del args, kwargs
        if not isinstance(network, BundledNetwork):
            raise UsageError(
                f"WholePipe works with a BundledNetwork, which knows its task; a "
                f"{type(network).__name__} came"
            )
        if inputs.ndim != 5 or inputs.shape[1] != len(network.sources):
            raise DimensionError(
                f"A tensor of shape {tuple(inputs.shape)} came; (B, {len(network.sources)}, X, Y, "
                f"Z) was expected, a channel for {' and '.join(map(str, network.sources))}."
            )
        images = np.stack([self._one(image, network) for image in inputs])
        from monai.utils.type_conversion import convert_to_dst_type

        made: Tensor = convert_to_dst_type(images, inputs)[0]
        return made

    def _one(self, image: Tensor, network: BundledNetwork) -> np.ndarray[Any, Any]:
        """(C, X, Y, Z) -> (K, X, Y, Z)."""
        affine = getattr(image, "affine", None)
        matrix = None if affine is None else affine.detach().cpu().numpy()
        device = "cuda" if image.is_cuda else "cpu"
        scans = {
            contrast: Volume.of(channel.detach().cpu().numpy(), matrix, str(contrast))
            for contrast, channel in zip(network.sources, image, strict=True)
        }
        made = [run_model(network.model, scans, t, device=device) for t in network.targets]
        return np.stack([translation.volume.voxels for translation in made])


def _contrast(name: str | None, side: str, model: str) -> Contrast:
    if name is None:
        raise UsageError(f'model "{model}" serves several pairs; give the {side} contrast')
    return Contrast.parse(name)


def _system(module: nn.Module) -> Translator:
    if not isinstance(module, BundledNetwork):
        raise TypeError(f"{type(module).__name__} is no BundledNetwork")
    return module.system


def _forget(module: nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:
    """Leave what the system remembers of its training out of a state."""
    del metadata
    system, inner = _system(module), f"{prefix}system."
    lasting = {inner + name for name in system.lasting_state()}
    for name in [name for name in state if name.startswith(inner) and name not in lasting]:
        del state[name]


def _remember(module: nn.Module, state: dict[str, Any], prefix: str, *rest: Any) -> None:
    """Leave a network's memories as they are where a state has none."""
    del rest
    for name, tensor in _system(module).state_dict().items():
        if name not in _system(module).lasting_state():
            state.setdefault(f"{prefix}system.{name}", tensor)
