"""Checkpoint files of other projects -> tensors by name, without running anything that a file brings.

safetensors as they are; what `torch.save` wrote with `weights_only=True`, in which two classes that hold settings are
read as plain dicts (TBPS-CLIP saves its EasyDict beside the weights); OpenAI's own downloads, which are TorchScript
archives, with a reader that knows tensors and names only: the archive's code is never looked at.
"""

import io
import math
import pickle
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

WRAPPERS = ("model", "state_dict")  # IRRA, RDE, TBPS-CLIP; open_clip's training
# Classes of settings, read as plain dicts: their fields, none of their code.
_SETTINGS = [(OrderedDict, name) for name in ("easydict.EasyDict", "argparse.Namespace")]
_DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


class ConvertError(ValueError):
    """A file that cannot be converted; one line that names the file and, where there is one, the key in it."""


def read_state_dict(path: Path) -> tuple[dict[str, torch.Tensor], str | None]:
    """Reads tensors by name without running any code.

    Returns:
        the tensors, without the `module.` that data-parallel training puts before every name, and the field of the file
        that held them, None where the file is the state dict.

    Raises:
        ConvertError: not a dict of tensors, damaged, or not readable without code.
        FileNotFoundError: no such file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    found = _read(path)
    if not isinstance(found, Mapping):
        raise ConvertError(f"{path}: holds a {type(found).__name__}, not a state dict")
    wrapper = next((field for field in WRAPPERS if isinstance(found.get(field), Mapping)), None)
    state = found if wrapper is None else found[wrapper]
    for key, value in state.items():
        if not isinstance(value, torch.Tensor):
            raise ConvertError(f"{path}: {key!r} is a {type(value).__name__}, not a tensor; save the bare state dict")
    if not state:
        raise ConvertError(f"{path}: holds no tensors")
    if all(key.startswith("module.") for key in state):
        state = {key.removeprefix("module."): value for key, value in state.items()}
    return dict(state), wrapper


def _read(path: Path) -> Any:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        if _is_archive(path):
            return read_archive(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's, on protocols: what matters is raised below
            with torch.serialization.safe_globals(_SETTINGS):
                return torch.load(path, map_location="cpu", weights_only=True)
    except SafetensorError as error:
        raise ConvertError(f"{path}: damaged, or not safetensors ({error})") from error
    except (pickle.UnpicklingError, zipfile.BadZipFile, RuntimeError, EOFError, ValueError, LookupError) as error:
        if isinstance(error, ConvertError):
            raise
        if "weights_only" in str(error) or "WeightsUnpickler" in str(error):
            reason = "not readable without running code from it; save a plain state dict or safetensors"
        else:
            reason = "damaged, or no PyTorch file"
        raise ConvertError(f"{path}: {reason}") from error


def _is_archive(path: Path) -> bool:
    """Whether a file is a TorchScript archive, as `torch.load` tells it."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.split("/", 1)[-1] == "constants.pkl" for name in archive.namelist())


def read_archive(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a TorchScript archive, by the names that its `state_dict()` has.

    Of the pickle in it four things are understood: the archive's own modules (kept as names and values), tensors, the
    types of their storages, and lists. Anything else is refused, and no code of the archive is compiled or run.

    Raises:
        ConvertError: something else is in it, or a tensor does not fit its data.
        zipfile.BadZipFile, pickle.UnpicklingError, LookupError, ValueError, EOFError: damaged.
    """
    with zipfile.ZipFile(path) as archive:
        pickled = next((name for name in archive.namelist() if name.split("/", 1)[-1] == "data.pkl"), None)
        if pickled is None:
            raise ConvertError(f"{path}: a TorchScript archive without data.pkl")
        home = pickled.removesuffix("data.pkl")
        if home + "byteorder" in archive.namelist() and archive.read(home + "byteorder") != b"little":
            raise ConvertError(f"{path}: a TorchScript archive of a big-endian machine")
        try:
            root = _ArchiveReader(path, archive, home).load()
            if not isinstance(root, _Module):
                raise ConvertError(f"{path}: a TorchScript archive of a {type(root).__name__}, not of a module")
            return dict(_tensors(root, "", set()))
        except (AttributeError, TypeError, RecursionError) as error:
            raise ConvertError(f"{path}: damaged ({error})") from error


class _Module:
    """Stands for every class of an archive: attributes, no code."""


class _ArchiveReader(pickle.Unpickler):
    """Reads an archive's data.pkl; every name in it that is not listed here is refused."""

    def __init__(self, path: Path, archive: zipfile.ZipFile, home: str):
        super().__init__(io.BytesIO(archive.read(home + "data.pkl")))
        self.path, self.archive, self.home = path, archive, home
        self.storages: dict[str, torch.Tensor] = {}

    def find_class(self, module: str, name: str) -> Any:
        if module == "__torch__" or module.startswith("__torch__."):
            return _Module
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return self._tensor
        if (module, name) == ("collections", "OrderedDict"):
            return dict
        if module == "torch.jit._pickle" and name in ("build_intlist", "build_doublelist", "build_boollist"):
            return list
        raise ConvertError(f"{self.path}: names {module}.{name}: not readable without running code from it")

    def persistent_load(self, pid: Any) -> torch.Tensor:
        _, dtype, key, _, count = pid
        if not isinstance(key, str) or not key.isdigit():
            raise ConvertError(f"{self.path}: names storage {key!r}, no tensor's")
        if key not in self.storages:
            info = self.archive.getinfo(f"{self.home}data/{key}")
            if info.compress_type != zipfile.ZIP_STORED or info.file_size != count * dtype.itemsize:
                raise ConvertError(f"{self.path}: data/{key} has {info.file_size} bytes, not {count} of {dtype}")
            data = bytearray(self.archive.read(info))
            self.storages[key] = torch.frombuffer(data, dtype=dtype) if data else torch.zeros(0, dtype=dtype)
        return self.storages[key]

    def _tensor(
        self, storage: torch.Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any
    ) -> torch.Tensor:
        if math.prod(size) > len(storage):  # a stride of 0 would make a small file a large tensor
            raise ConvertError(f"{self.path}: a tensor of {list(size)} from {len(storage)} numbers")
        try:
            return torch.as_strided(storage, size, stride, offset)
        except RuntimeError as error:
            raise ConvertError(f"{self.path}: a tensor of {list(size)} beyond its data") from error


def _tensors(module: _Module, prefix: str, above: set[int]) -> Iterator[tuple[str, torch.Tensor]]:
    if id(module) in above:
        raise TypeError("a module within itself")
    for name, value in vars(module).items():
        if isinstance(value, torch.Tensor):
            yield prefix + name, value
        elif isinstance(value, _Module):
            yield from _tensors(value, f"{prefix}{name}.", above | {id(module)})


__all__ = ["ConvertError", "read_archive", "read_state_dict"]
