"""Networks made ready for an engine other than torch as it stands; see `inference.engines`."""

from __future__ import annotations

import hashlib
import sys
import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medi2i import __version__
from medi2i.errors import out_of_memory
from medi2i.files import write_whole
from medi2i.zoo import cache_folder

__all__ = ["compiled", "converted"]

Run = Callable[[Tensor], Tensor]

HELD = 4
"""Networks that a process keeps ready: the looks of one scan."""
KEPT = 32
"""Converted networks that stay in the cache folder, those that were used last."""
DIGEST = 32
"""Bytes of the checksum that a file of the cache begins with."""

_held: OrderedDict[str, Any] = OrderedDict()
_lock = threading.Lock()


def compiled(network: nn.Module, eager: Run, example: Tensor, what: str) -> Run:
    """A pass through a network, compiled by torch; that may take a minute.

    Args:
        network: whose modules `eager` runs, and nothing else.
        example: a batch; others must have its shape.
        what: tells `eager` from others of the same network.
    """

    def make() -> Run:
        made: Run = torch.compile(eager, dynamic=False)
        made(example)
        return made

    run: Run = _once(_digest("compile", network, example, what), make)
    return run


def converted(network: nn.Module, eager: Run, example: Tensor, what: str) -> Run:
    """A pass through a network, converted for OpenVINO: in float32, on as many threads as torch.

    What was converted once is kept in the cache folder. Arguments as for :func:`compiled`.
    """
    core = _core()
    threads = torch.get_num_threads()
    version, processor = _openvino().get_version(), core.get_property("CPU", "FULL_DEVICE_NAME")
    name = _digest("openvino", network, example, what, version, processor, threads)
    settings = {
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
    }

    def make() -> Any:
        place = cache_folder() / f"{name}.blob"
        if (known := _read(place)) is not None:
            with suppress(RuntimeError):  # of another build; made anew
                return core.import_model(known, "CPU", settings)
        made = core.compile_model(_traced(network, eager, example), "CPU", settings)
        with suppress(OSError, ValueError, RuntimeError):  # a cache that cannot be written is none
            _write(place, made.export_model().getvalue())
        return made

    request = _once(name, make).create_infer_request()  # one's own: threads may share the network

    def run(windows: Tensor) -> Tensor:
        results = request.infer([windows.contiguous().numpy()], share_inputs=True)
        return torch.from_numpy(results[0])

    return run


class _Traceable(nn.Module):
    """A pass as a module that owns the parameters which it needs, as tracing wants it."""

    def __init__(self, network: nn.Module, run: Run) -> None:
        super().__init__()
        self.network = network
        self._run = run

    def forward(self, windows: Tensor) -> Tensor:
        return self._run(windows)


def _traced(network: nn.Module, eager: Run, example: Tensor) -> Any:
    """OpenVINO's form of a pass for batches of one shape."""
    with warnings.catch_warnings(), torch.inference_mode(False), torch.no_grad():
        warnings.simplefilter("ignore")  # on shapes that are fixed by tracing: here they are fixed
        blank = torch.zeros(example.shape)
        traced = torch.jit.trace(_Traceable(network, eager), blank, check_trace=False)
    return _openvino().convert_model(traced, input=list(example.shape))


def _openvino() -> Any:
    """The package, kept from telling its makers over the network that it is used."""
    # It looks for this package and does without where there is none.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino


@cache
def _core() -> Any:
    """What compiles, one for the whole process and never given up.

    Each lays a stack for signal handlers, and puts the one before it back when it goes. Where the
    one before went first, the next signal, a Ctrl-C or the end of a child, would end the process.
    """
    return _openvino().Core()


def _once(name: str, make: Callable[[], Any]) -> Any:
    """What `make` makes, or the error that it raises, kept for the next time."""
    with _lock:
        if name not in _held:
            try:
                _held[name] = make()
            except Exception as error:
                if out_of_memory(error):
                    raise
                _held[name] = error.with_traceback(None)
            while len(_held) > HELD:
                _held.popitem(last=False)
        _held.move_to_end(name)
        if isinstance(made := _held[name], Exception):
            raise made
        return made


def _digest(engine: str, network: nn.Module, example: Tensor, *more: Any) -> str:
    """A name for what an engine makes of a network, for batches of this shape."""
    told = (__version__, torch.__version__, engine, example.shape, example.device, *more)
    digest = hashlib.sha256(repr(told).encode())
    for name, tensor in network.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _read(place: Path) -> bytes | None:
    """What :func:`_write` wrote; None where it is not there, or was altered."""
    try:
        content = place.read_bytes()
    except OSError:
        return None
    with suppress(OSError):  # for whom it is not to write
        place.touch()
    digest, rest = content[:DIGEST], content[DIGEST:]
    return rest if hashlib.sha256(rest).digest() == digest else None


def _write(place: Path, content: bytes) -> None:
    """Keep it, and give up what was not used for longest."""
    write_whole(place, hashlib.sha256(content).digest() + content)
    by_age = sorted(place.parent.glob("*.blob"), key=lambda path: -path.stat().st_mtime)
    for old in by_age[KEPT:]:
        old.unlink(missing_ok=True)
