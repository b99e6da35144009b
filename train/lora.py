"""Low-rank adapters by peft: a few MB are trained, saved alone, and laid over any CLIP or Rogle base.

from lora import load_adapters
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


def add_adapters(
    model: RogleModel, rank: int, alpha: int = 0, targets: str = "both", dora: bool = False, base: str | None = None
) -> "PeftModel":
    """Puts adapters into the model, in place, and freezes all else but the heads that CLIP does not have.

    The global temperature stays that of the base: peft saves modules, and CLIP's is a bare parameter.

    Args:
        rank: of the update of each matrix.
        alpha: the update counts `alpha / rank`; 0 takes twice the rank.
        targets: `"vision"`, `"text"` or `"both"`: attention, MLP and projection of these towers.
        dora: directions and magnitudes apart (DoRA, arXiv 2402.09353).
        base: name to be kept beside the adapters.

    Returns:
        peft's wrapper around the model, which saves the adapters.

    Raises:
        ValueError: unknown targets.
        ImportError: peft is not installed.
    """
    if targets not in TARGETS:
        raise ValueError(f"targets must be one of {', '.join(sorted(TARGETS))}, not {targets!r}")
    peft = _peft()
    config = peft.LoraConfig(
        r=rank,
        lora_alpha=alpha or 2 * rank,
        target_modules=TARGETS[targets],
        modules_to_save=["region_head"] + (["identity_classifier"] if model.identity_classifier is not None else []),
        use_dora=dora,
        base_model_name_or_path=base,
    )
    wrapped = peft.get_peft_model(model, config)
    config.base_model_name_or_path = base  # get_peft_model writes down the folder of this machine
    return wrapped


def merged(adapted: "PeftModel") -> RogleModel:
    """A copy with the adapters added to the weights, which needs no peft any more."""
    return copy.deepcopy(adapted).merge_and_unload()


def load_adapters(base: str | Path, adapters: str | Path, **fields: Any) -> RogleModel:
    """A Rogle or CLIP checkpoint with adapters added to its weights.

    Args:
        base: folder or Hub name; sizes must be those of the base that the adapters were trained on.
        adapters: folder or Hub name.
        **fields: of [`RogleModel.from_pretrained`], such as `image_size` for CLIP weights.

    Raises:
        ImportError: peft is not installed.
    """
    peft = _peft()
    return peft.PeftModel.from_pretrained(RogleModel.from_pretrained(base, **fields), str(adapters)).merge_and_unload()


def _peft():
    try:
        import peft
    except ImportError:
        raise ImportError("adapters need peft: pip install 'rogle[lora]'") from None
    return peft


__all__ = ["add_adapters", "load_adapters", "merged"]
