"""The tiny checkpoint, exported to ONNX once in a test session, because tracing takes seconds."""

from pathlib import Path

import pytest

from modeling_rogle.onnx_export.export import export_onnx

_FOLDERS: dict[Path, Path] = {}


def exported_folder(checkpoint: Path, factory: pytest.TempPathFactory) -> Path:
    """Folder of the exported checkpoint, which is created on the first call."""
    if checkpoint not in _FOLDERS:
        _FOLDERS[checkpoint] = export_onnx(checkpoint, factory.mktemp("onnx") / "exported").folder
    return _FOLDERS[checkpoint]
