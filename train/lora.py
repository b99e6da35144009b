"""Low-rank adapters by peft: a few MB of trained weights that can be saved alone and added to a base model.

from train.lora import load_adapters
model = load_adapters("openai/clip-vit-base-patch16", "runs/lora/best/adapter")
"""

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modeling_rogle import RogleModel

if TYPE_CHECKING:
    from peft import PeftModel

LAYERS = r"self_attn\.(q_proj|k_proj|v_proj|out_proj)|mlp\.(fc1|fc2)"
TARGETS = {
    "vision": rf"vision_model\..*({LAYERS})|visual_projection",
    "text": rf"text_model\..*({LAYERS})|text_projection",
}
TARGETS["both"] = f"({TARGETS['vision']})|({TARGETS['text']})"


def add_adapters(model: RogleModel, rank: int, targets: str = "both", base: str | None = None) -> "PeftModel":
    """Adds adapters to a model in place and freezes all other weights, except the heads that CLIP does not have.

    The global temperature stays that of the base: peft saves modules, and CLIP's temperature is a bare parameter.

    Args:
        model: changed in place.
        rank: rank of each matrix's update; the update is scaled by 2 (`lora_alpha = 2 * rank`).
        targets (`str`, defaults to `"both"`): towers to adapt, `"vision"`, `"text"` or `"both"`: attention, MLP and
            projection.
        base (`str`, defaults to `None`): name of the base model, saved with the adapters.

    Returns:
        peft's wrapper of the model, which saves the adapters.

    Raises:
        ValueError: unknown targets.
        ImportError: peft is not installed.
    """
    if targets not in TARGETS:
        raise ValueError(f"targets must be one of {', '.join(sorted(TARGETS))}, not {targets!r}")
    peft = _import_peft()
    config = peft.LoraConfig(
        r=rank,
        lora_alpha=2 * rank,
        target_modules=TARGETS[targets],
        modules_to_save=["region_head"] + (["identity_classifier"] if model.identity_classifier is not None else []),
        base_model_name_or_path=base,
    )
    adapted = peft.get_peft_model(model, config)
    config.base_model_name_or_path = base  # get_peft_model sets the local folder
    return adapted


def merged(adapted: "PeftModel") -> RogleModel:
    """A copy of the model with the adapters added to the weights; it works without peft."""
    return copy.deepcopy(adapted).merge_and_unload()


def load_adapters(base: str | Path, adapters: str | Path, **fields: Any) -> RogleModel:
    """Loads a Rogle or CLIP checkpoint and adds adapters to its weights.

    Args:
        base: folder or Hub name; its sizes must be those of the base that the adapters were trained on.
        adapters: folder or Hub name.
        **fields: arguments of [`RogleModel.from_pretrained`], such as `image_size` for CLIP weights.

    Raises:
        ImportError: peft is not installed.
    """
    peft = _import_peft()
    return peft.PeftModel.from_pretrained(RogleModel.from_pretrained(base, **fields), str(adapters)).merge_and_unload()


def _import_peft() -> Any:
    try:
        import peft
    except ImportError:
        raise ImportError("adapters need peft: pip install 'rogle[lora]'") from None
    return peft


__all__ = ["add_adapters", "load_adapters", "merged"]
