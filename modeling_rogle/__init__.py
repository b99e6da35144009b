"""Rogle: text-based person search with a global and a region-sentence branch.

An independent implementation of ROGLE (arXiv 2606.01825), of which only the abstract is public. It contains none of
the authors' code, weights or data.
"""

import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .configuration_rogle import RogleConfig
    from .indexing.build_index import build_index
    from .inference.loading import load_model
    from .modeling_rogle import RogleModel, RogleOutput
    from .pipeline_rogle import TextBasedPersonSearchPipeline
    from .processing_rogle import RogleProcessor
    from .search.gallery import Gallery

_MODULES = {
    "Gallery": "search.gallery",
    "RogleConfig": "configuration_rogle",
    "RogleModel": "modeling_rogle",
    "RogleOutput": "modeling_rogle",
    "RogleProcessor": "processing_rogle",
    "TextBasedPersonSearchPipeline": "pipeline_rogle",
    "build_index": "indexing.build_index",
    "load_model": "inference.loading",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if find_spec("torch") is not None:
        _register()
    value = getattr(import_module(f".{_MODULES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})


def _register() -> None:
    """Registers the classes with transformers' Auto classes and the pipeline task."""
    from transformers import AutoConfig, AutoModel, AutoModelForZeroShotImageClassification, AutoProcessor

    from .configuration_rogle import RogleConfig
    from .modeling_rogle import RogleModel
    from .pipeline_rogle import register
    from .processing_rogle import RogleProcessor

    AutoConfig.register("rogle", RogleConfig, exist_ok=True)
    AutoModel.register(RogleConfig, RogleModel, exist_ok=True)
    AutoModelForZeroShotImageClassification.register(RogleConfig, RogleModel, exist_ok=True)
    AutoProcessor.register(RogleConfig, RogleProcessor, exist_ok=True)
    register()


# The import of transformers takes seconds, which `rogle --help` does not need; the commands import the classes later.
# Without torch an index can still be searched through an exported ONNX model.
if Path(sys.argv[0]).stem != "rogle" and find_spec("torch") is not None:
    _register()

__all__ = [
    "Gallery",
    "RogleConfig",
    "RogleModel",
    "RogleOutput",
    "RogleProcessor",
    "TextBasedPersonSearchPipeline",
    "build_index",
    "load_model",
]
