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
from transformers.utils import ModelOutput
from transformers.utils.generic import can_return_tuple

from .box_ops import check_box_image, crop_boxes, mean_patch_tokens, roi_align
from .clip_weights import CAPTION_TOKENS, TEXT_POSITIONS, VISION_POSITIONS, rogle_weights  # noqa: F401, convert's
from .configuration_rogle import HEAD_FIELDS, RogleConfig
from .head_acsa import STRIPES, StripePhraseAttention
from .head_irr import ImplicitRelations
from .head_parts import PartDecoder
from .layers import QuickGELU
from .objective import weighted_terms
from .positions import resize_image_positions
from .region_features import BlockInputs, RogleVisionEncoder, value_only_block
from .text_packing import encode_buckets, encode_packed, stack_texts, text_lengths

HEADS = {"acsa": StripePhraseAttention, "parts": PartDecoder, "implicit_relations": ImplicitRelations}


@dataclass
class RogleOutput(ModelOutput):
    """
    Output of [`RogleModel`]; b images and captions, n region-sentence pairs, d the projection dimension.

    loss (`torch.FloatTensor` scalar, with `return_loss=True`): weighted sum of the terms below.
    loss_global (scalar): image-caption loss, `config.global_loss`.
    loss_local (scalar): region-sentence contrastive loss; None without pairs.
    loss_tsl_text, loss_tsl_image (scalar): token-similarity losses; None when switched off or without pairs.
    loss_id (scalar): identity classification of images and captions; None when switched off.
    loss_short (scalar): contrast of short captions; None when switched off.
    loss_head (scalar): that of `config.head`; None without.
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
    loss_id: torch.FloatTensor | None = None
    loss_short: torch.FloatTensor | None = None
    loss_head: torch.FloatTensor | None = None
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
    _no_split_modules += [kind.__name__ for kind in HEADS.values()]

    def __init__(self, config: RogleConfig):
        super().__init__(config)
        # The parts are kept, only the square position table gives way to one of this model's height and width.
        self.vision_model.embeddings = RogleVisionEmbeddings(config)
        self.vision_model.encoder = RogleVisionEncoder(self.vision_model.encoder)
        self.region_head = RegionHead(config)
        self.identity_classifier = (
            nn.Linear(config.projection_dim, config.num_identities, bias=False) if config.num_identities else None
        )
        self.head = HEADS[config.head](config) if config.head != "none" else None
        for tower in (self.vision_model, self.text_model):
            if tower.config.hidden_act == "quick_gelu":
                for layer in tower.encoder.layers:
                    layer.mlp.activation_fn = QuickGELU()
        self.post_init()
        # FSDP looks each of them up, and fails on one that this model does not have.
        self._no_split_modules &= {type(module).__name__ for module in self.modules()}

    def get_input_embeddings(self) -> nn.Module:
        """The table of words: a model of two towers has no input embeddings of its own, and FSDP asks for some."""
        return self.text_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.text_model.set_input_embeddings(value)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, RegionHead):
            init.constant_(module.logit_scale, module.initial)
        elif isinstance(module, PartDecoder):
            init.normal_(module.slots, std=self.config.initializer_range)

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
        fields = {k: kwargs.pop(k) for k in list(kwargs) if k in FIELDS and k != "dtype"}
        with_info = kwargs.pop("output_loading_info", False)
        tokens = kwargs.pop("max_position_embeddings", None)
        attention = {k: kwargs[k] for k in ("attn_implementation",) if k in kwargs}
        clip = CLIPModel.from_pretrained(name, **kwargs)
        config, state = rogle_weights(name, clip, fields, tokens)
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

    def _block_inputs(self, regions: bool, last_states: bool = False) -> BlockInputs:
        """What the dense forward has to keep for region features, if any, and what it may leave out."""
        feature = self.config.region_feature if regions else None
        return BlockInputs(int(feature == "dense_roi"), class_only=not last_states and feature != "patch_mean")

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
        else:
            tokens = value_only_block(layers[-1], inputs.states[0][:, 1:])
            pooled = roi_align(tokens, boxes, box_image, grid)[:, 0, 0]
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
        inputs = self._block_inputs(boxes is not None)
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

    @property
    def part_counts(self) -> tuple[int, int]:
        """K of [`RogleModel.encode_image_parts`] and of [`RogleModel.encode_text_parts`]."""
        slots = self.config.head_config.get("part_slots", 0)
        return {"acsa": (len(STRIPES) + 1, 0), "parts": (slots, slots)}.get(self.config.head, (0, 0))

    @torch.no_grad()
    def encode_image_parts(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """What the head compares of images at test: slots (`"parts"`), or stripes and the whole image (`"acsa"`).

        Args:
            pixel_values: `[b, 3, height, width]`, normalised by the processor.

        Returns:
            `[b, K, d]` unit vectors, fp32; K is 0 with any other head.
        """
        if self.config.head == "acsa":
            stripes, owner = self._stripes(pixel_values)
            images, regions = self.encode_images(pixel_values, stripes, owner)
            return torch.cat([regions.unflatten(0, (len(images), -1)), images[:, None]], dim=1)
        if self.config.head != "parts":
            return torch.zeros(len(pixel_values), 0, self.projection_dim, device=pixel_values.device)
        return self.head(patches=self._patches(self.vision_model(pixel_values=pixel_values)))["image_parts"].float()

    @torch.no_grad()
    def encode_text_parts(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        """What the head compares of texts at test, beside their embedding and sentences: the slots of `"parts"`.

        Args:
            input_ids, attention_mask: as of [`RogleModel.encode_texts`].

        Returns:
            `[n, K, d]` unit vectors, fp32; K is 0 with any other head.
        """
        if self.config.head != "parts":
            return torch.zeros(len(input_ids), 0, self.projection_dim, device=input_ids.device)
        words = self.encode_tokens(input_ids, keep_tokens=True)[1]
        return self.head(words=words, kept=self._kept(input_ids))["text_parts"].float()

    def _stripes(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        boxes = torch.tensor(STRIPES, device=pixel_values.device).repeat(len(pixel_values), 1)
        return boxes, torch.arange(len(pixel_values), device=boxes.device).repeat_interleave(len(STRIPES))

    def _patches(self, vision: BaseModelOutputWithPooling) -> torch.Tensor:
        return self.vision_model.post_layernorm(vision.last_hidden_state[:, 1:])

    def _kept(self, input_ids: torch.Tensor) -> torch.Tensor:
        """`[n, l]` bool, false behind the end of each text."""
        lengths = torch.tensor(text_lengths(input_ids, self.text_model.eos_token_id), device=input_ids.device)
        return torch.arange(input_ids.shape[1], device=input_ids.device) < lengths[:, None]

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
        short_input_ids: torch.LongTensor | None = None,
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
            short_input_ids: `[b, s]` short captions beside the long ones, for `short_loss_weight`.
            return_loss: compute the losses.
            interpolate_pos_encoding: accept images of another size (resizes the table in every call).
            loss_inputs: given alone, nothing is embedded and the losses are those of these, see [`RogleModel.losses`].
            return_loss_inputs: give them back, and no loss unless `return_loss` is set too.
            gather: called with the loss inputs of this batch before the losses are taken; returns those to take.

        Raises:
            ValueError: input_ids or pixel_values missing, an image of the wrong size, a box without area, an identity
                loss without `identities`, one of short captions without them, `output_attentions` of attention that is
                not eager.
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
        of_captions |= {"short_input_ids": short_input_ids}
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
        head = self.head if training else None
        reads = () if head is None else head.reads
        wanted = bool(every_state) or not training or "patches" in reads
        inputs = self._block_inputs(boxes is not None or "stripes" in reads, last_states=wanted)
        vision = self.vision_model(
            pixel_values=pixel_values,
            interpolate_pos_encoding=interpolate_pos_encoding,
            block_inputs=inputs,
            **kwargs,
        )
        spans_wanted = training and self.config.tsl_text_weight > 0 and sentence_spans is not None and boxes is not None
        # One call for all texts: each costs the CPU a walk over all weights and their gradients.
        texts, keep, targets = {}, set(), None
        if head is not None and head.masks_words:
            texts["masked"], targets = head.mask(input_ids, self._kept(input_ids).sum(1))
            keep.add("masked")
        if position_ids is not None or every_state:
            text = self.text_model(
                input_ids=input_ids, attention_mask=attention_mask, position_ids=position_ids, **kwargs
            )
        else:
            text, texts["caption"] = None, input_ids
            if spans_wanted or not training or "words" in reads:
                keep.add("caption")
        if training and self.config.short_loss_weight > 0:
            if short_input_ids is None:
                raise ValueError("short_loss_weight is set: RogleModel.forward needs short_input_ids")
            texts["short"] = short_input_ids
        if sentence_input_ids is not None:
            texts["sentence"] = sentence_input_ids
        features, tokens = self._encode_texts(texts, keep)
        if text is None:
            text = BaseModelOutputWithPooling(
                last_hidden_state=tokens.get("caption"), pooler_output=features["caption"]
            )
        else:
            text.pooler_output = self.text_projection(text.pooler_output)
        text_features, sentence_features = text.pooler_output, features.get("sentence")
        vision.pooler_output = self.visual_projection(vision.pooler_output)
        image_embeds = nn.functional.normalize(vision.pooler_output, dim=-1)
        text_embeds = nn.functional.normalize(text_features, dim=-1)
        logits_per_text = self.logit_scale.exp() * text_embeds @ image_embeds.T

        region_embeds = sentence_embeds = None
        if boxes is not None:
            region_embeds = nn.functional.normalize(
                self._regions(pixel_values, vision.last_hidden_state, inputs, boxes, box_image), dim=-1
            )
        if sentence_features is not None:
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
                contrast_crops = config.local_contrast == "crop" and config.local_loss_weight > 0
                if contrast_crops or config.tsl_image_weight > 0:
                    one, found["crop_embeds"] = self._one_crop_an_image(pixel_values, region_embeds, boxes, box_image)
                    rows = {"cropped_regions": region_embeds, "crop_weight": pair_weight}
                    if contrast_crops:
                        rows |= {"crop_sentences": sentence_embeds}
                        rows |= {"crop_sentence_ids": sentence_ids, "crop_part_ids": part_ids}
                    found |= {name: value[one] for name, value in rows.items() if value is not None}
            if config.id_loss_weight > 0:
                if identities is None:
                    raise ValueError("id_loss_weight is set: RogleModel.forward needs identities")
                found["identities"] = identities
            if config.id_loss_weight > 0 or config.global_loss == "cmpm":
                found |= {"image_features": vision.pooler_output, "text_features": text_features}
            if "short" in features:
                found["short_embeds"] = nn.functional.normalize(features["short"], dim=-1)
            if "stripes" in reads:
                stripes, owner = self._stripes(pixel_values)
                of_stripes = self._regions(pixel_values, vision.last_hidden_state, inputs, stripes, owner)
                of_stripes = nn.functional.normalize(of_stripes, dim=-1).unflatten(0, (len(pixel_values), -1))
                found |= head(of_stripes, image_embeds, text_embeds, sentence_embeds, box_image)
            elif head is not None:
                words = text.last_hidden_state if targets is None else tokens["masked"]
                more = () if targets is None else (targets,)
                found |= head(self._patches(vision), words, self._kept(input_ids), *more)
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

    def push_to_hub(self, repo_id: str, *args: Any, **kwargs: Any) -> str:
        """As `PreTrainedModel.push_to_hub`, and the code goes along; processor, card and handler are `rogle push`'s."""
        kind, before = type(self), getattr(self.config, "auto_map", None)
        auto_class, kind._auto_class = kind._auto_class, "AutoModel"
        self.config.auto_map = {
            "AutoConfig": "configuration_rogle.RogleConfig",
            "AutoModel": "modeling_rogle.RogleModel",
            "AutoModelForZeroShotImageClassification": "modeling_rogle.RogleModel",
        }
        try:
            return super().push_to_hub(repo_id, *args, **kwargs)
        finally:
            kind._auto_class = auto_class
            if before is None:
                del self.config.auto_map
            else:
                self.config.auto_map = before

    def losses(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The loss and its terms, from embeddings alone: those of a batch, or of several put together.

        Arguments and result as of `objective.weighted_terms`.
        """
        scales = self.logit_scale, self.region_head()
        return weighted_terms(self.config, inputs, *scales, self.identity_classifier, self.head)

    def _encode_texts(
        self, texts: dict[str, torch.Tensor], keep: set[str]
    ) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        """Features of tables of ids, all in one call, and the token states of those named in `keep`."""
        names = sorted(texts, key=lambda name: name not in keep)  # those that are kept come first
        if not names:
            return {}, {}
        sizes = [len(texts[name]) for name in names]
        kept = sum(len(texts[name]) for name in keep)
        ids = stack_texts(*(texts[name] for name in names)) if len(names) > 1 else texts[names[0]]
        features, tokens = self.encode_tokens(ids, bool(keep), keep_first=kept)
        states = tokens.split(sizes[: len(keep)]) if keep else ()
        of_names = dict(zip(names, states, strict=False))
        return (
            dict(zip(names, features.split(sizes), strict=True)),
            {name: each[:, : texts[name].shape[1]] for name, each in of_names.items()},
        )

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
        self, pixel_values: torch.Tensor, region_embeds: torch.Tensor, boxes: torch.Tensor, box_image: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """`[k]` the rows of one box an image, and `[k, d]` the embeddings of their crops."""
        # One pair an image, its first, keeps the cost at one more image forward (GOAL takes the best one).
        order = box_image.argsort(stable=True)
        first = torch.ones_like(box_image, dtype=torch.bool)
        first[1:] = box_image[order][1:] != box_image[order][:-1]
        one = order[first]
        if not len(one):
            return one, region_embeds
        crops = crop_boxes(pixel_values, boxes[one], box_image[one])
        inputs = BlockInputs(class_only=True)
        vision = self.vision_model(pixel_values=crops, interpolate_pos_encoding=True, block_inputs=inputs)
        return one, self.visual_projection(vision.pooler_output)


FIELDS = {*RogleConfig.__dataclass_fields__, *HEAD_FIELDS}
HUB_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "token", "revision", "subfolder")

__all__ = ["RogleModel", "RogleOutput"]
