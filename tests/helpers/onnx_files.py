"""The tiny checkpoint, exported once a session: tracing it is what takes the time."""

from pathlib import Path

import pytest

from modeling_rogle.onnx_export.export import export_onnx

_FOLDERS: dict[Path, Path] = {}


def exported_folder(checkpoint: Path, factory: pytest.TempPathFactory) -> Path:
    """The export of a checkpoint's folder, made when first asked for."""
    if checkpoint not in _FOLDERS:
        _FOLDERS[checkpoint] = export_onnx(checkpoint, factory.mktemp("onnx") / "exported").folder
    return _FOLDERS[checkpoint]
