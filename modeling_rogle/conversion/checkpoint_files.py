"""Reads checkpoint files of other projects as a dict of tensors. No code in a file is executed.

- safetensors files are read directly.
- Files of `torch.save` are read with `weights_only=True`. Two classes that hold settings are read as plain dicts,
  because TBPS-CLIP saves an EasyDict with the weights.
- OpenAI's downloads are TorchScript archives. The reader here accepts tensors and names only and ignores their code.
"""

import io
import itertools
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

MAX_PICKLE = 64 << 20  # bytes of the names in an archive; the tensors are apart
MAX_MODULES = 100_000  # visited in an archive, where modules may be shared
PREFIXES = ("module.", "_orig_mod.", "model.", "clip.", "clipmodel.")  # of wrappers around the encoders
WRAPPERS = ("model", "state_dict")  # IRRA, RDE, TBPS-CLIP; open_clip's training
# Classes that hold settings: their fields are read as plain dicts.
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
    """A file that cannot be converted. The message is one line with the file and, if there is one, the key."""


def read_state_dict(path: Path) -> tuple[dict[str, torch.Tensor], str | None]:
    """Reads the tensors of a checkpoint without executing code.

    Args:
        path: a file in one of the three formats of this module.

    Returns:
        The tensors by name, without a prefix of `PREFIXES` that all encoder weights have; and the field of the file
        that contains them, or None if the file is the state dict itself.

    Raises:
        ConvertError: the file is not a dict of tensors, is damaged, cannot be read without executing code, holds a
            weight that is not finite, or is the folder of an adapter.
        FileNotFoundError: there is no such file.
    """
    if (path / "adapter_config.json").is_file():
        raise ConvertError(f"{path}: a LoRA adapter, not a checkpoint; RogleModel.from_pretrained reads it")
    if path.is_dir():
        raise ConvertError(f"{path}: a folder, not a checkpoint; a folder in the layout of transformers is a --model")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    content = _read(path)
    if not isinstance(content, Mapping):
        raise ConvertError(f"{path}: contains a {type(content).__name__}, not a state dict")
    wrapper = next((field for field in WRAPPERS if isinstance(content.get(field), Mapping)), None)
    state = content if wrapper is None else content[wrapper]
    for key, value in state.items():
        if not isinstance(value, torch.Tensor):
            raise ConvertError(f"{path}: {key!r} is a {type(value).__name__}, not a tensor; save the bare state dict")
    if not state:
        raise ConvertError(f"{path}: contains no tensors")
    _check_tensors(path, state)
    return _without_prefixes(dict(state)), wrapper


def _check_tensors(path: Path, state: Mapping[str, torch.Tensor]) -> None:
    """Refuses tensors that are larger than what the file holds, and weights that are not finite."""
    limit, total = 8 * path.stat().st_size + (1 << 20), 0
    for key, value in state.items():
        if not isinstance(key, str):
            raise ConvertError(f"{path}: {key!r} is not the name of a tensor")
        if value.layout != torch.strided or value.is_quantized or value.device.type != "cpu":
            raise ConvertError(f"{path}: {key!r} is not a plain tensor")
        size = value.numel() * value.element_size()
        total += size
        # Views with a stride of 0, or many views of the same numbers, make a small file large tensors.
        if size > value.untyped_storage().nbytes() or total > limit:
            raise ConvertError(f"{path}: {key!r} has shape {list(value.shape)}, more than the file holds")
    for key, value in state.items():
        is_mask = key.endswith("attn_mask")  # saved by open_clip; it is -inf above the diagonal
        if value.is_floating_point() and not is_mask and not value.isfinite().all():
            raise ConvertError(f"{path}: {key!r} holds a value that is not finite; the weights are broken")


def _without_prefixes(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Removes prefixes of wrappers around the encoders, as of `torch.compile`. Heads and losses may lie outside."""
    while True:
        patches = next((key for key in state if key.endswith("visual.conv1.weight")), next(iter(state)))
        prefix = next((one for one in PREFIXES if patches.startswith(one)), None)
        if prefix is None:
            return state
        inside = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
        state = inside | {key: state[key] for key in state if not key.startswith(prefix) and key not in inside}


def _read(path: Path) -> Any:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        if _is_archive(path):
            return read_archive(path)
        _check_stored(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns about protocols; real problems raise below
            with torch.serialization.safe_globals(_SETTINGS):
                return torch.load(path, map_location="cpu", weights_only=True)
    except SafetensorError as error:
        raise ConvertError(f"{path}: damaged, or not safetensors ({error})") from error
    except Exception as error:  # hostile bytes raise almost anything, also MemoryError
        if isinstance(error, ConvertError):
            raise
        if "weights_only" in str(error) or "WeightsUnpickler" in str(error):
            reason = "cannot be read without executing its code; save a plain state dict or safetensors"
        else:
            reason = "damaged, or not a PyTorch file"
        raise ConvertError(f"{path}: {reason}") from error


def _check_stored(path: Path) -> None:
    """Refuses compressed parts of a file of `torch.save`, which never compresses: they may unpack to any size."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for part in archive.infolist():
                if part.compress_type != zipfile.ZIP_STORED:
                    raise ConvertError(f"{path}: {part.filename} is compressed, which torch.save does not do")


def _is_archive(path: Path) -> bool:
    """Whether a file is a TorchScript archive; the same test as in `torch.load`."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.split("/", 1)[-1] == "constants.pkl" for name in archive.namelist())


def read_archive(path: Path) -> dict[str, torch.Tensor]:
    """Reads the tensors of a TorchScript archive.

    The reader accepts the archive's own modules (as names and values), tensors, storage types and lists. It refuses
    everything else. No code of the archive is compiled or executed.

    Args:
        path: the archive.

    Returns:
        The tensors by the names that the module's `state_dict()` has.

    Raises:
        ConvertError: the archive contains something else, or a tensor does not fit its data.
        zipfile.BadZipFile, pickle.UnpicklingError, LookupError, ValueError, EOFError: the archive is damaged.
    """
    with zipfile.ZipFile(path) as archive:
        pickled = next((name for name in archive.namelist() if name.split("/", 1)[-1] == "data.pkl"), None)
        if pickled is None:
            raise ConvertError(f"{path}: a TorchScript archive without data.pkl")
        folder = pickled.removesuffix("data.pkl")
        for name in (pickled, folder + "byteorder"):
            if name in archive.namelist() and archive.getinfo(name).file_size > MAX_PICKLE:
                raise ConvertError(f"{path}: {name} unpacks to more than {MAX_PICKLE >> 20} MB")
        if folder + "byteorder" in archive.namelist() and archive.read(folder + "byteorder") != b"little":
            raise ConvertError(f"{path}: a TorchScript archive with big-endian data")
        try:
            root = _ArchiveReader(path, archive, folder).load()
            if not isinstance(root, _Module):
                raise ConvertError(f"{path}: a TorchScript archive of a {type(root).__name__}, not of a module")
            return dict(_tensors(root, "", set(), itertools.count(1)))
        except (AttributeError, TypeError, RecursionError) as error:
            raise ConvertError(f"{path}: damaged ({error})") from error


class _Module:
    """Replaces every class of an archive: attributes without code."""


class _ArchiveReader(pickle.Unpickler):
    """Reads data.pkl of an archive and refuses every name that is not listed here."""

    def __init__(self, path: Path, archive: zipfile.ZipFile, folder: str):
        super().__init__(io.BytesIO(archive.read(folder + "data.pkl")))
        self.path, self.archive, self.folder = path, archive, folder
        self.storages: dict[str, torch.Tensor] = {}

    def find_class(self, module: str, name: str) -> Any:
        if module == "__torch__" or module.startswith("__torch__."):
            return _Module
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return self._tensor
        if (module, name) == ("collections", "OrderedDict"):
            return _new_dict
        if module == "torch.jit._pickle" and name in ("build_intlist", "build_doublelist", "build_boollist"):
            return _same  # a copy of the list, made often, would fill the memory
        raise ConvertError(f"{self.path}: names {module}.{name}: cannot be read without executing its code")

    def persistent_load(self, pid: Any) -> torch.Tensor:
        _, dtype, key, _, count = pid
        if not isinstance(key, str) or not key.isdigit():
            raise ConvertError(f"{self.path}: names storage {key!r}, which is not a tensor's")
        if key not in self.storages:
            info = self.archive.getinfo(f"{self.folder}data/{key}")
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


def _new_dict() -> dict[Any, Any]:
    return {}


def _same(values: list[Any]) -> list[Any]:
    return values


def _tensors(
    module: _Module, prefix: str, parents: set[int], visits: Iterator[int]
) -> Iterator[tuple[str, torch.Tensor]]:
    if id(module) in parents:
        raise TypeError("a module contains itself")
    if next(visits) > MAX_MODULES:  # modules that share modules have exponentially many names
        raise TypeError(f"more than {MAX_MODULES} modules")
    for name, value in vars(module).items():
        if isinstance(value, torch.Tensor):
            yield prefix + name, value
        elif isinstance(value, _Module):
            yield from _tensors(value, f"{prefix}{name}.", parents | {id(module)}, visits)


__all__ = ["ConvertError", "read_archive", "read_state_dict"]
