"""Rogle: text-based person search with a global and a region-sentence branch.

An independent implementation of ROGLE (arXiv 2606.01825), of which only the abstract is public: not the authors' code,
weights or data.
"""

from transformers import AutoConfig, AutoModel, AutoModelForZeroShotImageClassification, AutoProcessor

from .configuration_rogle import RogleConfig
from .modeling_rogle import RogleModel, RogleOutput
from .pipeline_rogle import TextBasedPersonSearchPipeline, register
from .processing_rogle import RogleProcessor

AutoConfig.register("rogle", RogleConfig, exist_ok=True)
AutoModel.register(RogleConfig, RogleModel, exist_ok=True)
AutoModelForZeroShotImageClassification.register(RogleConfig, RogleModel, exist_ok=True)
AutoProcessor.register(RogleConfig, RogleProcessor, exist_ok=True)

register()

__all__ = ["RogleConfig", "RogleModel", "RogleOutput", "RogleProcessor", "TextBasedPersonSearchPipeline"]
