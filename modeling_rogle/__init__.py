"""Rogle: text-based person search with a global and a region-sentence branch.

An independent implementation of ROGLE (arXiv 2606.01825), of which only the abstract is public: not the authors' code,
weights or data.
"""

import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .configuration_rogle import RogleConfig
    from .modeling_rogle import RogleModel, RogleOutput
    from .pipeline_rogle import TextBasedPersonSearchPipeline
    from .processing_rogle import RogleProcessor

_HOME = {
    "RogleConfig": "configuration_rogle",
    "RogleModel": "modeling_rogle",
    "RogleOutput": "modeling_rogle",
    "RogleProcessor": "processing_rogle",
    "TextBasedPersonSearchPipeline": "pipeline_rogle",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    _register()
    found = getattr(import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})


def _register() -> None:
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


# The `rogle` command prints its help without the seconds that transformers takes; what it runs asks for a class here.
# Without torch an index can still be searched, with an exported model (onnx_search.py).
if Path(sys.argv[0]).stem != "rogle" and find_spec("torch") is not None:
    _register()

__all__ = ["RogleConfig", "RogleModel", "RogleOutput", "RogleProcessor", "TextBasedPersonSearchPipeline"]
