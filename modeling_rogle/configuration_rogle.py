"""RogleConfig: CLIP's configuration plus every choice that the ROGLE paper leaves open, each a named field."""

from huggingface_hub.dataclasses import strict
from transformers import CLIPConfig

REGION_FEATURES = ("patch_mean", "dense_roi", "masked_cls", "crop")
GLOBAL_LOSSES = ("itc", "sdm", "tal", "cmpm")
SAME_IDENTITY = ("positive", "excluded")
ID_LOSSES = ("softmax", "cmpc")
LOCAL_CONTRASTS = ("region", "crop")
HEADS = ("none", "acsa", "parts", "implicit_relations")
RELIABILITIES = ("none", "margin", "gmm_consensus", "evidential", "places", "identity")
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
            CLIP's post-layer-norm and visual projection (GOAL, arXiv 2503.17782). `"dense_roi"`: the last block with
            its attention left out (value path only, MaskCLIP, arXiv 2112.01071), then RoIAlign (FG-CLIP's kind of
            region feature, arXiv 2505.05071). `"masked_cls"`: the class token, attending in the last `masked_blocks`
            blocks to the box's patches alone (the idea of MaskCLIP's mask class tokens, arXiv 2208.08984). `"crop"`:
            the box cut out, enlarged and encoded by itself, one image forward a box: the reference that costs most.
        masked_blocks (`int`, defaults to 1): how many last blocks `"masked_cls"` walks again for each box (ours).
        global_loss (`str`, defaults to `"itc"`): image-caption objective: `"itc"`, InfoNCE with every pair of an
            identity positive; `"sdm"`, similarity distribution matching (IRRA, arXiv 2303.12501); `"tal"`, triplet
            alignment loss (RDE, arXiv 2308.09911); `"cmpm"`, cross-modal projection matching (ECCV 2018, ACSA's).
        itc_temperature (`float`, defaults to 0.0): a fixed temperature of `"itc"` in place of the learnt one, as in
            CTLG (arXiv 2311.09084: 0.005 to 0.02); 0 learns it.
        same_identity (`str`, defaults to `"positive"`): what `"itc"` makes of other pairs of a row's identity:
            `"positive"`, or `"excluded"` from its sum.
        sdm_temperature (`float`, defaults to 0.02): IRRA's.
        tal_temperature (`float`, defaults to 0.015), tal_margin (`float`, defaults to 0.1): RDE's.
        local_loss_weight (`float`, defaults to 0.5): weight of the region-sentence contrastive loss (GOAL's 0.5).
            0 leaves this term out; without boxes there is no local branch at all.
        local_contrast (`str`, defaults to `"region"`): the image side of that loss: `"region"`, the boxes' embeddings,
            or `"crop"`, that of one crop an image, encoded alone (GOAL), at the cost of one more image forward a step.
        tsl_text_weight (`float`, defaults to 1.0): weight of the token-similarity loss for text (GOAL).
        tsl_image_weight (`float`, defaults to 0.0): the same for images, whose target is the embedding of one crop
            an image, at the cost of one more image forward a step, for which reason it is off (ours).
        tsl_detach_target (`bool`, defaults to `True`): stop the gradient at the crop's or sentence's embedding
            (GOAL does not; ours).
        soft_negatives (`float`, defaults to 0.0): in [0, 1], how much a negative of the local loss counts less the
            nearer its sentence is to the pair's own (ours, after the commonality of arXiv 2501.00318); 0 counts all
            negatives fully.
        distill_weight (`float`, defaults to 0.0): weight of the self-distillation of region embeddings towards those
            of their crops (FineCLIP, NeurIPS 2024), one crop an image as for `tsl_image_weight`.
        id_loss_weight (`float`, defaults to 0.0): weight of the identity classification loss, one classifier for both
            modalities (IRRA); needs `num_identities`.
        id_loss (`str`, defaults to `"softmax"`): `"softmax"`, cross-entropy of the embeddings' logits (IRRA), or
            `"cmpc"`, cross-modal projection classification (ECCV 2018; ACSA, weight 4).
        num_identities (`int`, defaults to 0): classes of the identity loss; 0 leaves the classifier out.
        short_loss_weight (`float`, defaults to 0.0): weight of a second image-caption contrast, of the short captions
            given beside the long ones and images reduced to their primary components (Long-CLIP, arXiv 2403.15378).
        short_components (`int`, defaults to 32): how many (Long-CLIP's, of 512 to 768 dimensions).
        head (`str`, defaults to `"none"`): what another system adds to the two towers, see its room: `"acsa"`,
            `"parts"` or `"implicit_relations"`. With `"acsa"` and `"parts"` `local_weight` is that of the head's own
            similarity, in place of late interaction.
        head_loss_weight (`float`, defaults to 1.0): weight of the head's loss (ACSA's is 0.1).
        head_temperature (`float`, defaults to 0.02): of the distribution in ACSA's local loss (ours).
        head_layers (`int`, defaults to 1): blocks of the part decoder (ours), or those behind the cross-attention of
            implicit relations (IRRA has 4).
        part_slots (`int`, defaults to 6), part_margin (`float`, defaults to 0.2), commonality (`float`, defaults to
            1.0): slots, margin in units of cosine, and how much of it a common part gives up, in [0, 1] (ours, after
            arXiv 2501.00318).
        mask_probability (`float`, defaults to 0.15): share of the words that implicit relations mask (IRRA).
        reliability_local, reliability_global (`str`): how far a region-sentence pair, or an image-caption pair, is
            trusted in training, see `reliability.py`: `"none"`, `"margin"` (ours), `"gmm_consensus"` (one mixture over
            two views together, so that a strong one may outvote the other: ours, after the consensus division of RDE
            and CONQUER, arXiv 2601.18625), `"evidential"` (DECL, DURA, arXiv 2505.06566), `"places"` (of
            region-sentence pairs: words and place must agree as in the other pairs, see `word_places.py`; ours),
            `"identity"` (of image-caption pairs: a person's captions must agree, see `caption_agreement.py`; ours).
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
    masked_blocks: int = 1
    global_loss: str = "itc"
    itc_temperature: float | int = 0.0
    same_identity: str = "positive"
    sdm_temperature: float = 0.02
    tal_temperature: float = 0.015
    tal_margin: float | int = 0.1
    local_loss_weight: float | int = 0.5
    local_contrast: str = "region"
    tsl_text_weight: float | int = 1.0
    tsl_image_weight: float | int = 0.0
    tsl_detach_target: bool = True
    soft_negatives: float | int = 0.0
    distill_weight: float | int = 0.0
    id_loss_weight: float | int = 0.0
    id_loss: str = "softmax"
    num_identities: int = 0
    short_loss_weight: float | int = 0.0
    short_components: int = 32
    head: str = "none"
    head_loss_weight: float | int = 1.0
    head_temperature: float | int = 0.02
    head_layers: int = 1
    part_slots: int = 6
    part_margin: float | int = 0.2
    commonality: float | int = 1.0
    mask_probability: float | int = 0.15
    reliability_local: str = "none"
    reliability_global: str = "none"
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
        for name, allowed in (
            ("text_positions", TEXT_POSITIONS),
            ("region_feature", REGION_FEATURES),
            ("global_loss", GLOBAL_LOSSES),
            ("same_identity", SAME_IDENTITY),
            ("local_contrast", LOCAL_CONTRASTS),
            ("id_loss", ID_LOSSES),
            ("head", HEADS),
            ("reliability_local", tuple(kind for kind in RELIABILITIES if kind != "identity")),
            ("reliability_global", tuple(kind for kind in RELIABILITIES if kind != "places")),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {allowed}, not {getattr(self, name)!r}")
        layers = getattr(self.vision_config, "num_hidden_layers", None)
        if layers and not 1 <= self.masked_blocks <= layers:
            raise ValueError(f"masked_blocks must lie in [1, {layers}], not {self.masked_blocks}")
        for name in ("sdm_temperature", "tal_temperature", "head_temperature"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, not {getattr(self, name)}")
        for name in ("local_weight", "soft_negatives", "commonality", "mask_probability"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} must lie in [0, 1], not {getattr(self, name)}")
        for name in ("short_components", "head_layers", "part_slots"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.id_loss_weight > 0 and self.num_identities < 1:
            raise ValueError("id_loss_weight needs num_identities, the number of identities in training")
        for name in (
            "local_loss_weight",
            "tsl_text_weight",
            "tsl_image_weight",
            "distill_weight",
            "id_loss_weight",
            "itc_temperature",
            "short_loss_weight",
            "head_loss_weight",
            "part_margin",
            "tal_margin",
            "num_identities",
        ):
            if not getattr(self, name) >= 0:  # nor NaN
                raise ValueError(f"{name} must not be negative, not {getattr(self, name)}")


__all__ = ["RogleConfig"]
