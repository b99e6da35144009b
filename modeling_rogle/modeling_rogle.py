"""RogleModel: images, regions, captions and sentences -> embeddings and losses, on `transformers.CLIPModel`."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import CLIPConfig, CLIPModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.clip.modeling_clip import CLIPVisionEmbeddings
from transformers.utils import ModelOutput, logging
from transformers.utils.generic import can_return_tuple

from .activations import QuickGELU
from .configuration_rogle import RogleConfig
from .dense import BlockInputs, RogleVisionEncoder, masked_class_tokens, value_only_block
from .losses import (
    identity_loss,
    multi_positive_itc,
    region_sentence_contrastive,
    self_distillation,
    similarity_distribution_matching,
    token_similarity,
    triplet_alignment,
)
from .packing import encode_buckets, encode_packed, stack_texts, text_lengths
from .positions import lengthen_text_positions, resize_image_positions
from .regions import check_box_image, crop_boxes, mean_patch_tokens, roi_align

logger = logging.get_logger(__name__)

VISION_POSITIONS = "vision_model.embeddings.position_embedding.weight"
TEXT_POSITIONS = "text_model.embeddings.position_embedding.weight"
# Read when plain CLIP weights are loaded: the caption length of the release (Long-CLIP's 20 + 57 * 4).
CAPTION_TOKENS = 248


@dataclass
class RogleOutput(ModelOutput):
    """
    Output of [`RogleModel`]; b images and captions, n region-sentence pairs, d the projection dimension.

    loss (`torch.FloatTensor` scalar, with `return_loss=True`): weighted sum of the terms below.
    loss_global (scalar): image-caption loss, `config.global_loss`.
    loss_local (scalar): region-sentence contrastive loss; None without pairs.
    loss_tsl_text, loss_tsl_image (scalar): token-similarity losses; None when switched off or without pairs.
    loss_distill (scalar): self-distillation of regions to crops; None when switched off or without pairs.
    loss_id (scalar): identity classification of images and captions; None when switched off.
    logits_per_image (`[b, b]`), logits_per_text (`[b, b]`): scaled cosine of images and captions.
    text_embeds (`[b, d]`), image_embeds (`[b, d]`): unit vectors.
    region_embeds (`[n, d]`), sentence_embeds (`[n, d]`): unit vectors; None without boxes or sentences.
    loss_inputs (dict of tensors, with `return_loss_inputs` or `gather`): what [`RogleModel.losses`] read or would read.
    text_model_output, vision_model_output: as in `CLIPOutput`. Text states after a caption's last token are zero
        unless `output_hidden_states` or `output_attentions` is asked for, and left out of a training step that does not
        read them; of the last vision states such a step computes the class token's alone.
    """

    loss: torch.FloatTensor | None = None
    loss_global: torch.FloatTensor | None = None
    loss_local: torch.FloatTensor | None = None
    loss_tsl_text: torch.FloatTensor | None = None
    loss_tsl_image: torch.FloatTensor | None = None
    loss_distill: torch.FloatTensor | None = None
    loss_id: torch.FloatTensor | None = None
    logits_per_image: torch.FloatTensor | None = None
    logits_per_text: torch.FloatTensor | None = None
    text_embeds: torch.FloatTensor | None = None
    image_embeds: torch.FloatTensor | None = None
    region_embeds: torch.FloatTensor | None = None
    sentence_embeds: torch.FloatTensor | None = None
    loss_inputs: dict[str, torch.Tensor] | None = None
    text_model_output: BaseModelOutputWithPooling | None = None
    vision_model_output: BaseModelOutputWithPooling | None = None

    def to_tuple(self) -> tuple[Any, ...]:
        return tuple(v.to_tuple() if isinstance(v, ModelOutput) else v for v in self.values())


class RogleVisionEmbeddings(CLIPVisionEmbeddings):
    """CLIP's patch embedding with a position table of any height and width (same parameter names)."""

    def __init__(self, config: RogleConfig):
        super().__init__(config.vision_config)
        self.image_size = tuple(config.image_size)
        self.grid = config.patch_grid
        self.num_patches = self.grid[0] * self.grid[1]
        self.num_positions = self.num_patches + 1
        self.position_embedding = nn.Embedding(self.num_positions, self.embed_dim)
        self.position_ids = nn.Buffer(torch.arange(self.num_positions).expand((1, -1)), persistent=False)

    def forward(self, pixel_values: torch.Tensor, interpolate_pos_encoding: bool = False) -> torch.Tensor:
        height, width = pixel_values.shape[-2:]
        positions = self.position_embedding(self.position_ids)
        if (height, width) != self.image_size:
            if not interpolate_pos_encoding:
                raise ValueError(
                    f"pixel_values are {height} x {width}, the model reads {self.image_size[0]} x {self.image_size[1]} "
                    "(height x width); pass interpolate_pos_encoding=True, or resize them"
                )
            grid = (height // self.patch_size, width // self.patch_size)
            positions = resize_image_positions(positions[0], grid, self.grid)[None]
        patches = self.patch_embedding(pixel_values.to(self.patch_embedding.weight.dtype)).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.class_embedding.expand(len(patches), 1, -1), patches], dim=1)
        return tokens + positions


class RegionHead(nn.Module):
    """What the local branch adds to CLIP: its own temperature. A module, so that adapters can save it."""

    def __init__(self, config: RogleConfig):
        super().__init__()
        self.initial = config.region_logit_scale_init_value
        # One-dimensional: FSDP2 does not shard scalars.
        self.logit_scale = nn.Parameter(torch.tensor([self.initial]))

    def forward(self) -> torch.Tensor:
        """Scalar multiplier of region-sentence cosines, at most 100 as in CLIP."""
        return self.logit_scale[0].clamp(max=math.log(100)).exp()


class RogleModel(CLIPModel):
    """CLIP with a global image-caption branch and a region-sentence branch.

    One image forward gives the global embedding and every region embedding; sentences are encoded apart, as they are
    queried apart. An independent implementation of ROGLE (arXiv 2606.01825), of which only the abstract is public.
    """

    config: RogleConfig
    config_class = RogleConfig
    # Matched by class name: parts with parameters of their own must not be spread over devices.
    _no_split_modules = ["CLIPTextEmbeddings", "RogleVisionEmbeddings", "CLIPEncoderLayer", "RegionHead"]

    def __init__(self, config: RogleConfig):
        super().__init__(config)
        # The parts are kept, only the square position table gives way to one of this model's height and width.
        self.vision_model.embeddings = RogleVisionEmbeddings(config)
        self.vision_model.encoder = RogleVisionEncoder(self.vision_model.encoder)
        self.region_head = RegionHead(config)
        self.identity_classifier = (
            nn.Linear(config.projection_dim, config.num_identities, bias=False) if config.num_identities else None
        )
        for tower in (self.vision_model, self.text_model):
            if tower.config.hidden_act == "quick_gelu":
                for layer in tower.encoder.layers:
                    layer.mlp.activation_fn = QuickGELU()
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, RegionHead):
            init.constant_(module.logit_scale, module.initial)

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | None, *args: Any, **kwargs: Any
    ) -> "RogleModel | tuple[RogleModel, dict]":
        """Loads a Rogle checkpoint, or any `CLIPModel` one (folder or Hub name).

        For plain CLIP weights the vision position table is resized to the rectangle (bicubic) and the text table
        lengthened, once, and one log line says so.

        Args:
            pretrained_model_name_or_path: folder or Hub name.
            image_size (`list[int]`, for CLIP weights): height and width in pixels, [384, 128] if not given.
            max_position_embeddings (`int`, for CLIP weights): caption length in tokens, 248 if not given.
            **kwargs: other fields of [`RogleConfig`] (for CLIP weights) and those of
                `PreTrainedModel.from_pretrained`.

        Raises:
            ValueError: an architecture other than Rogle and CLIP, an image size that the patches do not divide, fewer
                text positions than the checkpoint has.
            OSError: no readable weights; a Rogle checkpoint must be safetensors.
        """
        if pretrained_model_name_or_path is not None and kwargs.get("state_dict") is None:
            if kwargs.get("config") is None:
                hub = {k: kwargs[k] for k in HUB_ARGUMENTS if k in kwargs}
                found, _ = CLIPConfig.get_config_dict(pretrained_model_name_or_path, **hub)
                if found.get("model_type") == "clip":
                    return cls._from_clip(pretrained_model_name_or_path, **kwargs)
                if found.get("model_type") != "rogle":
                    raise ValueError(
                        f"{pretrained_model_name_or_path}: model_type {found.get('model_type')!r} in config.json, "
                        "only 'rogle' and 'clip' can be read"
                    )
                fixed = {"image_size": found.get("image_size")}
                fixed["max_position_embeddings"] = found.get("text_config", {}).get("max_position_embeddings")
                for field, value in fixed.items():
                    asked = kwargs.get(field, value)
                    if value is not None and (list(asked) != list(value) if field == "image_size" else asked != value):
                        raise ValueError(
                            f"{pretrained_model_name_or_path}: {field} is {value} in this Rogle checkpoint and is "
                            f"kept, not {asked}; other sizes are for CLIP weights"
                        )
                kwargs.pop("max_position_embeddings", None)
            kwargs.setdefault("use_safetensors", True)
        return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)

    @classmethod
    def _from_clip(cls, name: str, **kwargs: Any) -> "RogleModel | tuple[RogleModel, dict]":
        fields = {k: kwargs.pop(k) for k in list(kwargs) if k in RogleConfig.__dataclass_fields__ and k != "dtype"}
        with_info = kwargs.pop("output_loading_info", False)
        tokens = kwargs.pop("max_position_embeddings", None)
        attention = {k: kwargs[k] for k in ("attn_implementation",) if k in kwargs}
        clip = CLIPModel.from_pretrained(name, **kwargs)
        state, source = clip.state_dict(), clip.config.to_dict()
        for key in ("model_type", "architectures", "transformers_version", "auto_map"):
            source.pop(key, None)
        old_tokens, old_side = source["text_config"]["max_position_embeddings"], source["vision_config"]["image_size"]
        if tokens is not None and tokens < old_tokens:
            raise ValueError(
                f"max_position_embeddings={tokens}: {name} has {old_tokens} text positions, none are dropped"
            )
        source["text_config"]["max_position_embeddings"] = tokens or max(CAPTION_TOKENS, old_tokens)
        config = RogleConfig(**(source | fields))
        patch = config.vision_config.patch_size
        state[VISION_POSITIONS] = resize_image_positions(
            state[VISION_POSITIONS], config.patch_grid, (old_side // patch, old_side // patch)
        )
        state[TEXT_POSITIONS] = lengthen_text_positions(
            state[TEXT_POSITIONS], config.text_config.max_position_embeddings, config.text_positions
        )
        # The head is filled here as well: nothing is left for the loader to report missing.
        state["region_head.logit_scale"] = torch.tensor([config.region_logit_scale_init_value])
        if config.num_identities:
            shape = (config.num_identities, config.projection_dim)
            state["identity_classifier.weight"] = torch.randn(shape) * config.initializer_range
        logger.warning_once(
            f"{name}: CLIP weights read into RogleModel: image positions {old_side} x {old_side} -> "
            f"{config.image_size[0]} x {config.image_size[1]} px (bicubic), text positions {old_tokens} -> "
            f"{config.text_config.max_position_embeddings} ({config.text_positions}); new: region_head.logit_scale"
        )
        model, info = super().from_pretrained(
            None, config=config, state_dict=state, output_loading_info=True, dtype=clip.dtype, **attention
        )
        model = model.to(clip.device)
        return (model, info) if with_info else model

    def encode_tokens(
        self, input_ids: torch.Tensor, keep_tokens: bool = False, keep_first: int | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Encodes texts of unequal length without paying for their padding (which must be on the right).

        On a CPU they are packed, elsewhere they go in buckets of like length, see `packing.py`.

        Args:
            input_ids: `[n, l]`.
            keep_tokens: also return the states of the tokens.
            keep_first: of the first texts only (captions, when their sentences follow); of all if None.

        Returns:
            `[n, d]` projected embeddings, not normalised, and `[n or keep_first, l, hidden]` final states, zero after
            each text's end, or an empty tensor.
        """
        keep = (len(input_ids) if keep_first is None else keep_first) if keep_tokens else 0
        if len(input_ids) == 0:
            nothing = self.text_projection.weight.new_zeros
            return nothing(0, self.projection_dim), nothing(0, input_ids.shape[1], self.text_embed_dim)
        encode = encode_packed if input_ids.device.type == "cpu" else encode_buckets
        lengths = text_lengths(input_ids, self.text_model.eos_token_id)
        limit = self.config.text_config.max_position_embeddings
        if max(lengths) > limit:
            raise ValueError(f"input_ids: a text of {max(lengths)} tokens, the model reads {limit}")
        pooled, tokens = encode(self.text_model, input_ids, lengths, keep)
        return self.text_projection(pooled), pooled.new_zeros(0) if tokens is None else tokens

    def get_region_features(
        self,
        pixel_values: torch.Tensor,
        boxes: torch.Tensor,
        box_image: torch.Tensor,
        interpolate_pos_encoding: bool = False,
    ) -> torch.Tensor:
        """Region embeddings of the kind `config.region_feature`, from one dense forward (`"crop"`: one more a box).

        Args:
            pixel_values: `[b, 3, height, width]`, normalised by the processor.
            boxes: `[n, 4]` x0, y0, x1, y1 in [0, 1].
            box_image: `[n]` int64, the image of each box.
            interpolate_pos_encoding: accept images of another size (resizes the table in every call).

        Returns:
            `[n, d]`, not normalised.

        Raises:
            ValueError: a box without area in its image, or a box_image that names no image.
        """
        inputs = self._block_inputs(boxes)
        vision = self.vision_model(
            pixel_values=pixel_values, interpolate_pos_encoding=interpolate_pos_encoding, block_inputs=inputs
        )
        return self._regions(pixel_values, vision.last_hidden_state, inputs, boxes, box_image)

    def _block_inputs(self, boxes: torch.Tensor | None, last_states: bool = False) -> BlockInputs:
        """What the dense forward has to keep for the region features of these boxes, and what it may leave out."""
        feature = self.config.region_feature if boxes is not None else None
        keep = {"dense_roi": 1, "masked_cls": self.config.masked_blocks}.get(feature, 0)
        return BlockInputs(keep, class_only=not last_states and feature != "patch_mean")

    def _regions(
        self,
        pixel_values: torch.Tensor,
        states: torch.Tensor,
        inputs: BlockInputs,
        boxes: torch.Tensor,
        box_image: torch.Tensor,
    ) -> torch.Tensor:
        """`[n, d]` region embeddings from the dense forward's last states `[b, 1 + patches, hidden]`."""
        check_box_image(box_image, len(pixel_values))
        if not len(boxes):
            return states.new_zeros(0, self.projection_dim)
        feature, layers = self.config.region_feature, self.vision_model.encoder.layers
        if feature == "crop":
            crops = crop_boxes(pixel_values, boxes, box_image)
            # Memory for a training step is the caller's affair; without gradients a few crops at a time are enough.
            few = len(crops) if torch.is_grad_enabled() else max(len(pixel_values), 16)
            pooled = [
                self.vision_model(
                    part, interpolate_pos_encoding=True, block_inputs=BlockInputs(class_only=True)
                ).pooler_output
                for part in crops.split(few)
            ]
            return self.visual_projection(torch.cat(pooled))
        patch = self.config.vision_config.patch_size
        grid = (pixel_values.shape[-2] // patch, pixel_values.shape[-1] // patch)
        if feature == "patch_mean":
            pooled = mean_patch_tokens(states[:, 1:], boxes, box_image, grid)
        elif feature == "dense_roi":
            tokens = value_only_block(layers[-1], inputs.states[0][:, 1:])
            pooled = roi_align(tokens, boxes, box_image, grid)[:, 0, 0]
        else:
            pooled = masked_class_tokens(layers[-inputs.keep :], inputs.states, boxes, box_image, grid)
        return self.visual_projection(self.vision_model.post_layernorm(pooled))

    @torch.no_grad()
    def encode_images(
        self,
        pixel_values: torch.Tensor,
        boxes: torch.Tensor | None = None,
        box_image: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Global and region embeddings for retrieval, from one forward (`region_feature="crop"`: one more a box).

        Args:
            pixel_values: `[b, 3, height, width]`, normalised by the processor.
            boxes: `[n, 4]` x0, y0, x1, y1 in [0, 1], or None.
            box_image: `[n]` int64, the image of each box.

        Returns:
            `[b, d]` and `[n, d]` (None without boxes): unit vectors, fp32.

        Raises:
            ValueError: a box without area in its image, or a box_image that names no image.
        """
        inputs = self._block_inputs(boxes)
        vision = self.vision_model(pixel_values=pixel_values, block_inputs=inputs)
        images = nn.functional.normalize(self.visual_projection(vision.pooler_output).float(), dim=-1)
        if boxes is None:
            return images, None
        regions = self._regions(pixel_values, vision.last_hidden_state, inputs, boxes, box_image)
        return images, nn.functional.normalize(regions.float(), dim=-1)

    @torch.no_grad()
    def encode_texts(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        """Embeddings of captions, sentences or queries for retrieval.

        Args:
            input_ids: `[n, l]`, padded on the right.
            attention_mask: accepted so that a processor's output can be passed whole; not needed, see
                [`RogleModel.encode_tokens`].

        Returns:
            `[n, d]` unit vectors, fp32.
        """
        return nn.functional.normalize(self.encode_tokens(input_ids)[0].float(), dim=-1)

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        pixel_values: torch.FloatTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        boxes: torch.FloatTensor | None = None,
        box_image: torch.LongTensor | None = None,
        sentence_input_ids: torch.LongTensor | None = None,
        sentence_spans: torch.LongTensor | None = None,
        sentence_ids: torch.LongTensor | None = None,
        part_ids: torch.LongTensor | None = None,
        pair_weight: torch.FloatTensor | None = None,
        caption_weight: torch.FloatTensor | None = None,
        person_ids: torch.LongTensor | None = None,
        identities: torch.LongTensor | None = None,
        return_loss: bool | None = None,
        interpolate_pos_encoding: bool = False,
        loss_inputs: dict[str, torch.Tensor] | None = None,
        return_loss_inputs: bool = False,
        gather: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]] | None = None,
        **kwargs: Any,
    ) -> RogleOutput:
        """One step of both branches.

        A loss that sees more than this batch is had in one of two ways: `gather` puts together what several processes
        embedded, and `return_loss_inputs` with a later call of `loss_inputs` alone what several calls did.

        Args:
            input_ids, attention_mask, position_ids: `[b, l]` captions, padded on the right.
            pixel_values: `[b, 3, height, width]`.
            boxes: `[n, 4]` regions, x0, y0, x1, y1 in [0, 1]; box_image: `[n]` int64, the row of each.
            sentence_input_ids: `[n, s]`, the sentence of each region.
            sentence_spans: `[n, 2]` first and past-last token of the sentence in its caption; -1 where the caption was
                cut before it, or where the batch's caption is not the one that holds it.
            sentence_ids: `[n]` int64, equal for equal sentences; part_ids: `[n]` int64, equal for the same part of
                the same person (both keep true pairs out of the negatives).
            pair_weight: `[n]` reliability of the region-sentence pairs in [0, 1].
            caption_weight: `[b]` reliability of the image-caption pairs in [0, 1].
            person_ids: `[b]` int64 identities, for positives beyond the diagonal.
            identities: `[b]` int64 classes in [0, `config.num_identities`), for the identity loss.
            return_loss: compute the losses.
            interpolate_pos_encoding: accept images of another size (resizes the table in every call).
            loss_inputs: given alone, nothing is embedded and the losses are those of these, see [`RogleModel.losses`].
            return_loss_inputs: give them back, and no loss unless `return_loss` is set too.
            gather: called with the loss inputs of this batch before the losses are taken; returns those to take.

        Raises:
            ValueError: input_ids or pixel_values missing, an image of the wrong size, a box without area, an identity
                loss without `identities`, `output_attentions` of attention that is not eager.
        """
        if loss_inputs is not None:
            loss_inputs = gather(loss_inputs) if gather else loss_inputs
            return RogleOutput(**self.losses(loss_inputs), loss_inputs=loss_inputs)
        training = bool(return_loss) or return_loss_inputs
        if input_ids is None or pixel_values is None:
            raise ValueError("RogleModel.forward needs input_ids and pixel_values; see encode_images and encode_texts")
        n = None if boxes is None else len(boxes)
        unknown = set(kwargs) - {"output_attentions", "output_hidden_states", "return_dict", "num_items_in_batch"}
        if unknown:
            raise ValueError(f"RogleModel.forward has no argument {min(unknown)!r}")
        kwargs.pop("num_items_in_batch", None)  # transformers' Trainer tells everybody
        of_boxes = {"box_image": box_image, "sentence_input_ids": sentence_input_ids, "sentence_spans": sentence_spans}
        of_boxes |= {"sentence_ids": sentence_ids, "part_ids": part_ids, "pair_weight": pair_weight}
        for name, value in of_boxes.items():
            if value is not None and len(value) != n or value is None and n is not None and name == "box_image":
                raise ValueError(f"{name} must have one row for each of {n or 0} boxes")
        of_captions = {"person_ids": person_ids, "caption_weight": caption_weight, "identities": identities}
        for name, value in of_captions.items():
            if value is not None and len(value) != len(input_ids):
                raise ValueError(f"{name} must have one row for each of {len(input_ids)} captions")
        for name in ("output_attentions", "output_hidden_states"):
            if getattr(self.config, name):  # the towers read their own configurations alone
                kwargs.setdefault(name, True)
        for tower in (self.vision_model, self.text_model):
            if kwargs.get("output_attentions") and tower.config._attn_implementation != "eager":
                raise ValueError(
                    f"output_attentions=True: {tower.config._attn_implementation!r} attention computes no maps; call "
                    "model.set_attn_implementation('eager') first"
                )
        every_state = kwargs.get("output_hidden_states") or kwargs.get("output_attentions")
        inputs = self._block_inputs(boxes, last_states=bool(every_state) or not training)
        vision = self.vision_model(
            pixel_values=pixel_values,
            interpolate_pos_encoding=interpolate_pos_encoding,
            block_inputs=inputs,
            **kwargs,
        )
        spans_wanted = training and self.config.tsl_text_weight > 0 and sentence_spans is not None and boxes is not None
        sentence_features = None
        if position_ids is not None or every_state:
            text = self.text_model(
                input_ids=input_ids, attention_mask=attention_mask, position_ids=position_ids, **kwargs
            )
            text_features = self.text_projection(text.pooler_output)
        else:
            # One call for captions and sentences: each costs the CPU a walk over all weights and their gradients.
            ids, captions = input_ids, len(input_ids)
            if sentence_input_ids is not None:
                ids = stack_texts(input_ids, sentence_input_ids)
            features, tokens = self.encode_tokens(ids, bool(spans_wanted) or not training, keep_first=captions)
            text_features, sentence_features = features[:captions], features[captions:]
            text = BaseModelOutputWithPooling(
                last_hidden_state=tokens[:, : input_ids.shape[1]] if len(tokens) else None, pooler_output=text_features
            )
        vision.pooler_output = self.visual_projection(vision.pooler_output)
        text.pooler_output = text_features
        image_embeds = nn.functional.normalize(vision.pooler_output, dim=-1)
        text_embeds = nn.functional.normalize(text_features, dim=-1)
        logits_per_text = self.logit_scale.exp() * text_embeds @ image_embeds.T

        region_embeds = sentence_embeds = None
        if boxes is not None:
            region_embeds = nn.functional.normalize(
                self._regions(pixel_values, vision.last_hidden_state, inputs, boxes, box_image), dim=-1
            )
        if sentence_input_ids is not None:
            if sentence_features is None:
                sentence_features = self.encode_tokens(sentence_input_ids)[0]
            sentence_embeds = nn.functional.normalize(sentence_features, dim=-1)

        losses: dict[str, torch.Tensor] = {}
        if training:
            config = self.config
            found = {
                "image_embeds": image_embeds,
                "text_embeds": text_embeds,
                "person_ids": person_ids,
                "caption_weight": caption_weight,
            }
            if region_embeds is not None and sentence_embeds is not None:
                found |= {
                    "region_embeds": region_embeds,
                    "sentence_embeds": sentence_embeds,
                    "sentence_ids": sentence_ids,
                    "part_ids": part_ids,
                    "pair_weight": pair_weight,
                }
                if spans_wanted:
                    found["span_embeds"], found["span_targets"] = self._spans_and_sentences(
                        text.last_hidden_state, sentence_embeds, sentence_spans, box_image
                    )
                if config.tsl_image_weight > 0 or config.distill_weight > 0:
                    found["cropped_regions"], found["crop_embeds"], found["crop_weight"] = self._one_crop_an_image(
                        pixel_values, region_embeds, boxes, box_image, pair_weight
                    )
            if config.id_loss_weight > 0:
                if identities is None:
                    raise ValueError("id_loss_weight is set: RogleModel.forward needs identities")
                found |= {
                    "image_features": vision.pooler_output,
                    "text_features": text_features,
                    "identities": identities,
                }
            loss_inputs = {name: value for name, value in found.items() if value is not None}
            if return_loss:
                loss_inputs = gather(loss_inputs) if gather else loss_inputs
                losses = self.losses(loss_inputs)

        return RogleOutput(
            **losses,
            loss_inputs=loss_inputs if return_loss_inputs or gather else None,
            logits_per_image=logits_per_text.T,
            logits_per_text=logits_per_text,
            text_embeds=text_embeds,
            image_embeds=image_embeds,
            region_embeds=region_embeds,
            sentence_embeds=sentence_embeds,
            text_model_output=text,
            vision_model_output=vision,
        )

    def losses(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The loss and its terms, from embeddings alone: those of a batch, or of several put together.

        Every term is a mean over images or over pairs, so rows of several processes or calls may be put end to end,
        name by name, whatever their numbers.

        Args:
            inputs: of b images `image_embeds`, `text_embeds` `[b, d]`, and as far as given to
                [`RogleModel.forward`] `person_ids`, `caption_weight`, `identities` `[b]`, the last with
                `image_features`, `text_features` `[b, d]`; of n pairs `region_embeds`, `sentence_embeds` `[n, d]`,
                `sentence_ids`, `part_ids`, `pair_weight` `[n]`; `span_embeds`, `span_targets` `[m, d]`, the pooled
                tokens of the sentences found in their captions, and the sentences; `cropped_regions`, `crop_embeds`
                `[k, d]`, `crop_weight` `[k]`, one region an image, and its crop.

        Returns:
            Scalars `loss` and those of `loss_global`, `loss_local`, `loss_tsl_text`, `loss_tsl_image`,
            `loss_distill`, `loss_id` that are switched on and have their inputs, as in [`RogleOutput`].
        """
        config, given = self.config, inputs.get
        terms = {"loss_global": self._global_loss(inputs)}
        loss = terms["loss_global"]
        if config.local_loss_weight > 0 and "region_embeds" in inputs:
            terms["loss_local"] = region_sentence_contrastive(
                inputs["region_embeds"],
                inputs["sentence_embeds"],
                self.region_head(),
                given("sentence_ids"),
                given("part_ids"),
                given("pair_weight"),
                config.soft_negatives,
            )
            loss = loss + config.local_loss_weight * terms["loss_local"]
        if "span_embeds" in inputs:
            # Not weighted by the pairs' reliability: a sentence is part of its caption whatever its region is.
            terms["loss_tsl_text"] = token_similarity(
                inputs["span_embeds"], inputs["span_targets"], None, config.tsl_detach_target
            )
            loss = loss + config.tsl_text_weight * terms["loss_tsl_text"]
        if "crop_embeds" in inputs:
            pairs = inputs["cropped_regions"], inputs["crop_embeds"], given("crop_weight")
            if config.tsl_image_weight > 0:
                terms["loss_tsl_image"] = token_similarity(*pairs, config.tsl_detach_target)
                loss = loss + config.tsl_image_weight * terms["loss_tsl_image"]
            if config.distill_weight > 0:
                terms["loss_distill"] = self_distillation(*pairs)
                loss = loss + config.distill_weight * terms["loss_distill"]
        if "identities" in inputs:
            terms["loss_id"] = identity_loss(
                self.identity_classifier(inputs["image_features"]),
                self.identity_classifier(inputs["text_features"]),
                inputs["identities"],
                given("caption_weight"),
            )
            loss = loss + config.id_loss_weight * terms["loss_id"]

        # Data-parallel training wants a gradient for every parameter in every step.
        loss = loss + 0.0 * self.region_head.logit_scale.sum()
        if "loss_id" not in terms and self.identity_classifier is not None:
            loss = loss + 0.0 * self.identity_classifier.weight.sum()
        if config.global_loss != "itc":
            loss = loss + 0.0 * self.logit_scale
        return {"loss": loss, **terms}

    def _global_loss(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        config = self.config
        images, texts = inputs["image_embeds"], inputs["text_embeds"]
        ids, weight = inputs.get("person_ids"), inputs.get("caption_weight")
        if config.global_loss == "sdm":
            return similarity_distribution_matching(images, texts, ids, weight, config.sdm_temperature)
        if config.global_loss == "tal":
            return triplet_alignment(images, texts, ids, weight, config.tal_temperature, config.tal_margin)
        scale = self.logit_scale.clamp(max=math.log(100)).exp()
        return multi_positive_itc(images, texts, scale, ids, weight)

    def _spans_and_sentences(
        self, tokens: torch.Tensor, sentence_embeds: torch.Tensor, spans: torch.Tensor, caption: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """`[m, d]` pooled tokens of the sentences that are found in their captions, and these sentences."""
        kept = (spans[:, 1] > spans[:, 0]).nonzero()[:, 0]
        position = torch.arange(tokens.shape[1], device=tokens.device)
        inside = (position >= spans[kept, :1]) & (position < spans[kept, 1:])
        share = inside.to(tokens.dtype) / inside.sum(1, keepdim=True).clamp(min=1)
        pooled = torch.einsum("nl,nlh->nh", share, tokens[caption[kept]])
        return self.text_projection(pooled), sentence_embeds[kept]

    def _one_crop_an_image(
        self,
        pixel_values: torch.Tensor,
        region_embeds: torch.Tensor,
        boxes: torch.Tensor,
        box_image: torch.Tensor,
        weight: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        # One pair an image, its first, keeps the cost at one more image forward (GOAL takes the best one).
        order = box_image.argsort(stable=True)
        first = torch.ones_like(box_image, dtype=torch.bool)
        first[1:] = box_image[order][1:] != box_image[order][:-1]
        one = order[first]
        if not len(one):
            return region_embeds, region_embeds, weight
        crops = crop_boxes(pixel_values, boxes[one], box_image[one])
        inputs = BlockInputs(class_only=True)
        vision = self.vision_model(pixel_values=crops, interpolate_pos_encoding=True, block_inputs=inputs)
        target = self.visual_projection(vision.pooler_output)
        return region_embeds[one], target, None if weight is None else weight[one]


HUB_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "token", "revision", "subfolder")

__all__ = ["RogleModel", "RogleOutput"]
