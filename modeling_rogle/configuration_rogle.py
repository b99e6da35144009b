"""RogleConfig: CLIP's configuration plus every choice that the ROGLE paper leaves open, each a named field."""

from huggingface_hub.dataclasses import strict
from transformers import CLIPConfig

REGION_FEATURES = ("patch_mean",)
TEXT_POSITIONS = ("stretch", "interpolate")


@strict
class RogleConfig(CLIPConfig):
    r"""
    Configuration of [`RogleModel`].

    Only the abstract of ROGLE (arXiv 2606.01825) is public to us, so each field names where its idea comes from;
    "ours" means that no paper states it.

    Args:
        image_size (`list[int]`, defaults to `[384, 128]`): height and width of the input in pixels, both multiples of
            `vision_config.patch_size`. 384 x 128 is the field's custom (IRRA, RDE). `vision_config.image_size` keeps
            the square size of the CLIP checkpoint that the weights came from and is not read by [`RogleModel`].
        text_positions (`str`, defaults to `"stretch"`): how a shorter position table is lengthened when plain CLIP
            weights are loaded: `"stretch"` keeps the first 20 positions (Long-CLIP, arXiv 2403.15378), `"interpolate"`
            resizes the whole table (CFAM, ICL).
        region_feature (`str`, defaults to `"patch_mean"`): the embedding of a box from the one dense forward.
            `"patch_mean"`: mean of the patch tokens weighted by the share of each patch that the box covers, then
            CLIP's post-layer-norm and visual projection (GOAL, arXiv 2503.17782).
        local_loss_weight (`float`, defaults to 0.5): weight of the region-sentence contrastive loss (GOAL's 0.5).
            0 leaves this term out; without boxes there is no local branch at all.
        tsl_text_weight (`float`, defaults to 1.0): weight of the token-similarity loss for text (GOAL).
        tsl_image_weight (`float`, defaults to 0.0): the same for images, whose target is the embedding of one crop
            an image, at the cost of one more image forward a step, for which reason it is off (ours).
        tsl_detach_target (`bool`, defaults to `True`): stop the gradient at the crop's or sentence's embedding
            (GOAL does not; ours).
        region_logit_scale_init_value (`float`, defaults to 2.6592): initial log of the region-sentence scale.
        local_weight (`float`, defaults to 0.0): w of `similarity = (1 - w) * global + w * local` at inference, fitted
            on a validation split (a fixed 0.1 in ACSA). 0 means global only.
        initializer_range (`float`, defaults to 0.02): standard deviation of new linear layers. CLIPConfig has none,
            and the base class would then draw them with 1.0.

    Raises:
        huggingface_hub.errors.StrictDataclassClassValidationError: a value outside its range; the message names the
            field.
    """

    model_type = "rogle"

    image_size: list[int] | tuple[int, int] = (384, 128)
    text_positions: str = "stretch"
    region_feature: str = "patch_mean"
    local_loss_weight: float | int = 0.5
    tsl_text_weight: float | int = 1.0
    tsl_image_weight: float | int = 0.0
    tsl_detach_target: bool = True
    region_logit_scale_init_value: float | int = 2.6592
    local_weight: float | int = 0.0
    initializer_range: float | int = 0.02

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
        if self.text_positions not in TEXT_POSITIONS:
            raise ValueError(f"text_positions must be one of {TEXT_POSITIONS}, not {self.text_positions!r}")
        if self.region_feature not in REGION_FEATURES:
            raise ValueError(f"region_feature must be one of {REGION_FEATURES}, not {self.region_feature!r}")
        if not 0.0 <= self.local_weight <= 1.0:
            raise ValueError(f"local_weight must lie in [0, 1], not {self.local_weight}")
        for name in ("local_loss_weight", "tsl_text_weight", "tsl_image_weight"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, not {getattr(self, name)}")


__all__ = ["RogleConfig"]
