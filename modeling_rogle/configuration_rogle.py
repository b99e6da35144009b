"""RogleConfig: CLIP's configuration plus every choice that the ROGLE paper leaves open, each a named field."""

from dataclasses import field
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import CLIPConfig
from transformers.utils import logging

logger = logging.get_logger(__name__)

REGION_FEATURES = ("patch_mean", "dense_roi", "crop")
GLOBAL_LOSSES = ("itc", "sdm", "tal", "cmpm")
SAME_IDENTITY = ("positive", "excluded")
ID_LOSSES = ("softmax", "cmpc")
LOCAL_CONTRASTS = ("region", "crop")
RELIABILITIES_LOCAL = ("none", "gmm_consensus", "places")
RELIABILITIES_GLOBAL = ("none", "gmm_consensus", "identity")
# Keys of `head_config` for each head, and their defaults.
HEAD_DEFAULTS: dict[str, dict[str, float | int]] = {
    "none": {},
    "acsa": {"head_loss_weight": 1.0, "head_temperature": 0.02},
    "parts": {"head_loss_weight": 1.0, "head_layers": 1, "part_slots": 6, "part_margin": 0.2, "commonality": 1.0},
    "implicit_relations": {"head_loss_weight": 1.0, "head_layers": 1, "mask_probability": 0.15},
}
HEAD_FIELDS = tuple(sorted({key for keys in HEAD_DEFAULTS.values() for key in keys}))

# What earlier versions stored in config.json. None of it affects the embeddings of a trained model.
_DELETED_FIELDS = (
    "text_positions", "masked_blocks", "sdm_temperature", "tal_temperature", "tal_margin", "soft_negatives",
    "distill_weight",
)  # fmt: skip
_DELETED_RELIABILITIES = ("margin", "evidential")


@strict
class RogleConfig(CLIPConfig):
    r"""
    Configuration of [`RogleModel`].

    Only the abstract of ROGLE (arXiv 2606.01825) is public, so each field names the source of its idea; "ours" means
    that no paper states it.

    Args:
        image_size (`list[int]`, defaults to `[384, 128]`): height and width of the input in pixels, both multiples of
            `vision_config.patch_size`. 384 x 128 is common in the field (IRRA, RDE). `vision_config.image_size` keeps
            the square size of the CLIP checkpoint that the weights came from and is not read by [`RogleModel`].
        region_feature (`str`, defaults to `"patch_mean"`): the embedding of a bounding box.
            `"patch_mean"`: mean of the patch tokens, weighted by the share of each patch that the box covers, then
            CLIP's post-layer-norm and visual projection (GOAL, arXiv 2503.17782).
            `"dense_roi"`: the last block without attention (value path only, MaskCLIP, arXiv 2112.01071), then
            RoIAlign (a region feature similar to FG-CLIP's, arXiv 2505.05071).
            `"crop"`: the box is cropped, resized and encoded as an image, at the cost of one forward pass per box.
        global_loss (`str`, defaults to `"itc"`): the image-caption loss.
            `"itc"`: InfoNCE in which every pair of an identity is positive.
            `"sdm"`: similarity distribution matching (IRRA, arXiv 2303.12501).
            `"tal"`: triplet alignment loss (RDE, arXiv 2308.09911).
            `"cmpm"`: cross-modal projection matching (ECCV 2018; used by ACSA).
        itc_temperature (`float`, defaults to 0.0): a fixed temperature of `"itc"` instead of the learnt one, as in
            CTLG (arXiv 2311.09084: 0.005 to 0.02); 0 learns it.
        same_identity (`str`, defaults to `"positive"`): how `"itc"` uses other pairs of a row's identity:
            `"positive"`, or `"excluded"` from its sum.
        local_loss_weight (`float`, defaults to 0.5): weight of the region-sentence contrastive loss (GOAL's 0.5).
            0 leaves this term out. Without boxes there is no local branch.
        local_contrast (`str`, defaults to `"region"`): the image side of that loss: `"region"`, the embeddings of the
            boxes, or `"crop"`, the embedding of one crop per image (GOAL). The crop costs one more image
            forward pass per step.
        tsl_text_weight (`float`, defaults to 1.0): weight of the token-similarity loss of texts (GOAL).
        tsl_image_weight (`float`, defaults to 0.0): weight of the token-similarity loss of images, whose target is
            the embedding of one crop per image. It costs one more image forward pass per step and is therefore off
            (ours).
        tsl_detach_target (`bool`, defaults to `True`): stop the gradient at the target, the embedding of the crop or
            the sentence (ours; GOAL does not).
        id_loss_weight (`float`, defaults to 0.0): weight of the identity classification loss, one classifier for both
            modalities (IRRA); needs `num_identities`.
        id_loss (`str`, defaults to `"softmax"`): `"softmax"`, cross-entropy of the embeddings' logits (IRRA), or
            `"cmpc"`, cross-modal projection classification (ECCV 2018; ACSA, weight 4).
        num_identities (`int`, defaults to 0): number of classes of the identity loss; 0 creates no classifier.
        short_loss_weight (`float`, defaults to 0.0): weight of a second image-caption contrast between short captions
            and images reduced to their principal components (Long-CLIP, arXiv 2403.15378).
        short_components (`int`, defaults to 32): number of these components (Long-CLIP's, of 512 to 768 dimensions).
        head (`str`, defaults to `"none"`): the additional module of a baseline: `"acsa"`, `"parts"` or
            `"implicit_relations"`, see `head_acsa.py`, `head_parts.py` and `head_irr.py`. With `"acsa"` and `"parts"`,
            `local_weight` weighs the head's own similarity instead of late interaction.
        head_config (`dict`, defaults to `{}`): settings of the head; missing keys get their defaults. Each key is also
            accepted as a keyword argument of its own.
            `head_loss_weight` (`float`, 1.0; every head): weight of the head's loss (0.1 in ACSA).
            `head_temperature` (`float`, 0.02; `"acsa"`): temperature of the local loss (ours).
            `head_layers` (`int`, 1; `"parts"`, `"implicit_relations"`): blocks of the part decoder (ours), or blocks
            after the cross-attention (IRRA has 4).
            `part_slots` (`int`, 6; `"parts"`): number of slots (ours, after arXiv 2501.00318).
            `part_margin` (`float`, 0.2; `"parts"`): margin in units of cosine (ours).
            `commonality` (`float`, 1.0; `"parts"`): share of the margin that a common part loses, in [0, 1] (ours).
            `mask_probability` (`float`, 0.15; `"implicit_relations"`): share of the words that are masked (IRRA).
        reliability_local (`str`, defaults to `"none"`): how the reliability of a region-sentence pair is estimated
            in training, see `reliability/pair_reliability.py`.
            `"none"`: every pair has weight 1.
            `"gmm_consensus"`: one mixture model over two views (ours, after the consensus division of RDE and CONQUER,
            arXiv 2601.18625).
            `"places"`: words and position of a pair must agree as in the other pairs (ours).
        reliability_global (`str`, defaults to `"none"`): the same for image-caption pairs: `"none"`,
            `"gmm_consensus"`, or `"identity"`: the captions of a person must agree (ours).
        region_logit_scale_init_value (`float`, defaults to 2.6592): initial log of the region-sentence scale.
        local_weight (`float`, defaults to 0.0): w of `similarity = (1 - w) * global + w * local` at inference, fitted
            on a validation split (a fixed 0.1 in ACSA). 0 uses the global similarity only.
        trained_regions (`bool`, defaults to `True`): whether the region embeddings were trained. `False` for CLIP
            weights; a search with such a model shows no regions. Training sets it.
        initializer_range (`float`, defaults to 0.02): standard deviation of new linear layers. CLIPConfig has no such
            field, and the base class would then use 1.0.

    Raises:
        huggingface_hub.errors.StrictDataclassClassValidationError: a value is out of range; the message names the
            field.
    """

    model_type = "rogle"

    image_size: list[int] | tuple[int, int] = (384, 128)
    region_feature: str = "patch_mean"
    global_loss: str = "itc"
    itc_temperature: float | int = 0.0
    same_identity: str = "positive"
    local_loss_weight: float | int = 0.5
    local_contrast: str = "region"
    tsl_text_weight: float | int = 1.0
    tsl_image_weight: float | int = 0.0
    tsl_detach_target: bool = True
    id_loss_weight: float | int = 0.0
    id_loss: str = "softmax"
    num_identities: int = 0
    short_loss_weight: float | int = 0.0
    short_components: int = 32
    head: str = "none"
    head_config: dict[str, Any] = field(default_factory=dict)
    reliability_local: str = "none"
    reliability_global: str = "none"
    region_logit_scale_init_value: float | int = 2.6592
    local_weight: float | int = 0.0
    trained_regions: bool = True
    initializer_range: float | int = 0.02

    def __post_init__(self, **kwargs: Any):
        settings = self.head_config | {key: kwargs.pop(key) for key in HEAD_FIELDS if key in kwargs}
        if unknown := sorted(set(settings) - set(HEAD_FIELDS)):
            raise ValueError(f"head_config has no key {unknown[0]!r}; the keys are {', '.join(HEAD_FIELDS)}")
        # Keys of the other heads are dropped, so that a checkpoint can be loaded with a different head.
        self.head_config = {key: settings.get(key, value) for key, value in HEAD_DEFAULTS.get(self.head, {}).items()}
        super().__post_init__(**kwargs)

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> "RogleConfig | tuple[RogleConfig, dict]":
        """As `PreTrainedConfig.from_dict`. Fields of earlier versions are read, or left out with one warning."""
        stored = dict(config_dict)
        deleted = [name for name in _DELETED_FIELDS if stored.pop(name, None) is not None]
        for name in ("reliability_local", "reliability_global"):
            if stored.get(name) in _DELETED_RELIABILITIES:
                deleted.append(f"{name}={stored.pop(name)!r}")
        head_config: dict[str, Any] = {}
        for source in (stored, kwargs):  # arguments overwrite what is stored
            flat = {key: source.pop(key) for key in HEAD_FIELDS if key in source}
            head_config |= flat | (source.pop("head_config", None) or {})
        stored |= {"head": kwargs.pop("head", stored.get("head", "none")), "head_config": head_config}
        loaded = super().from_dict(stored, **kwargs)
        (loaded[0] if isinstance(loaded, tuple) else loaded).validate()  # arguments are set after construction
        if deleted:
            logger.warning_once(f"RogleConfig: ignored fields that no longer exist: {', '.join(deleted)}")
        return loaded

    @property
    def late_interaction_weight(self) -> float:
        """`local_weight` in a search: 0.0 with a head whose own similarity `local_weight` belongs to."""
        return 0.0 if self.head in ("acsa", "parts") else float(self.local_weight)

    @property
    def patch_grid(self) -> tuple[int, int]:
        """Rows and columns of patches: (24, 8) for 384 x 128 pixels and patches of 16."""
        patch = self.vision_config.patch_size
        return self.image_size[0] // patch, self.image_size[1] // patch

    def validate_architecture(self):
        """Called by `@strict` after construction."""
        if len(self.image_size) != 2 or any(side <= 0 for side in self.image_size):
            raise ValueError(f"image_size must be [height, width] in pixels, not {self.image_size}")
        patch = self.vision_config.patch_size if hasattr(self.vision_config, "patch_size") else None
        if patch and any(side % patch for side in self.image_size):
            raise ValueError(f"image_size {list(self.image_size)} is not a multiple of patch_size {patch}")
        if self.region_feature == "masked_cls":
            raise ValueError("region_feature 'masked_cls' was removed, and no other feature gives the same embeddings")
        for name, allowed in (
            ("region_feature", REGION_FEATURES),
            ("global_loss", GLOBAL_LOSSES),
            ("same_identity", SAME_IDENTITY),
            ("local_contrast", LOCAL_CONTRASTS),
            ("id_loss", ID_LOSSES),
            ("head", tuple(HEAD_DEFAULTS)),
            ("reliability_local", RELIABILITIES_LOCAL),
            ("reliability_global", RELIABILITIES_GLOBAL),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {allowed}, not {getattr(self, name)!r}")
        if not 0.0 <= self.local_weight <= 1.0:
            raise ValueError(f"local_weight must lie in [0, 1], not {self.local_weight}")
        if self.short_components < 1:
            raise ValueError(f"short_components must be at least 1, not {self.short_components}")
        if self.id_loss_weight > 0 and self.num_identities < 1:
            raise ValueError("id_loss_weight needs num_identities, the number of identities in training")
        for name in (
            "local_loss_weight",
            "tsl_text_weight",
            "tsl_image_weight",
            "id_loss_weight",
            "itc_temperature",
            "short_loss_weight",
            "num_identities",
        ):
            if not getattr(self, name) >= 0:  # nor NaN
                raise ValueError(f"{name} must not be negative, not {getattr(self, name)}")
        for name, value in self.head_config.items():
            _check_head_value(name, value)


def _check_head_value(name: str, value: Any) -> None:
    is_integer = name in ("head_layers", "part_slots")
    if isinstance(value, bool) or not isinstance(value, int if is_integer else (int, float)):
        raise ValueError(f"{name} must be {'an integer' if is_integer else 'a number'}, not {value!r}")
    if is_integer and value < 1:
        raise ValueError(f"{name} must be at least 1, not {value}")
    if name == "head_temperature" and not value > 0:
        raise ValueError(f"{name} must be positive, not {value}")
    if name in ("commonality", "mask_probability") and not 0.0 <= value <= 1.0:
        raise ValueError(f"{name} must lie in [0, 1], not {value}")
    if name in ("head_loss_weight", "part_margin") and not value >= 0:  # nor NaN
        raise ValueError(f"{name} must not be negative, not {value}")


__all__ = ["RogleConfig"]
