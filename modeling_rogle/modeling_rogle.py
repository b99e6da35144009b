"""RogleModel: images, regions, captions and sentences -> embeddings and losses, on `transformers.CLIPModel`."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils import ModelOutput
from transformers.utils.generic import can_return_tuple

from .configuration_rogle import RogleConfig
from .head_acsa import StripePhraseAttention
from .head_irr import ImplicitRelations
from .head_parts import PartDecoder
from .layers import QuickGELU, RegionHead
from .objective import Head, Step, check_batch, collect_loss_inputs, needs_spans, weighted_terms
from .pretrained_rogle import PretrainedRogle
from .region_features import last_block_for, region_features
from .text_packing import encode_unpadded, stack_texts
from .vision_rogle import RogleVisionEmbeddings, RogleVisionEncoder

HEADS = {"acsa": StripePhraseAttention, "parts": PartDecoder, "implicit_relations": ImplicitRelations}


@dataclass
class RogleOutput(ModelOutput):
    """
    Output of [`RogleModel`]; b images and captions, n region-sentence pairs, d the projection dimension.

    Args:
        loss (`torch.FloatTensor` scalar, with `return_loss=True`): weighted sum of the terms below.
        loss_global (scalar): image-caption loss, `config.global_loss`.
        loss_local (scalar): region-sentence contrastive loss; None without pairs.
        loss_tsl_text (scalar): token-similarity loss of texts; None if switched off or without pairs.
        loss_tsl_image (scalar): token-similarity loss of images; None if switched off or without pairs.
        loss_id (scalar): identity classification of images and captions; None if switched off.
        loss_short (scalar): contrast of short captions; None if switched off.
        loss_head (scalar): loss of `config.head`; None without a head.
        logits_per_image (`[b, b]`): scaled cosines of images and captions.
        logits_per_text (`[b, b]`): the transpose of `logits_per_image`.
        text_embeds (`[b, d]`): unit vectors.
        image_embeds (`[b, d]`): unit vectors.
        region_embeds (`[n, d]`): unit vectors; None without boxes.
        sentence_embeds (`[n, d]`): unit vectors; None without sentences.
        loss_inputs (dict of tensors, with `return_loss_inputs` or `gather`): the inputs of [`RogleModel.losses`].
        text_model_output (`BaseModelOutputWithPooling`): as in `CLIPOutput`. Token states after the end of a caption
            are zero unless `output_hidden_states` or `output_attentions` is set. A training step that does not read
            the token states does not compute them.
        vision_model_output (`BaseModelOutputWithPooling`): as in `CLIPOutput`. A training step that does not read the
            final patch states computes the final state of the class token only.
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


class RogleModel(PretrainedRogle):
    """CLIP with a global image-caption branch and a region-sentence branch.

    One image forward gives the global embedding and every region embedding. Sentences are encoded separately, in
    training as in a query. An independent implementation of ROGLE (arXiv 2606.01825), of which only the abstract is
    public.

    Args:
        config: the configuration.
    """

    config: RogleConfig
    config_class = RogleConfig
    # Matched by class name: modules with parameters of their own must not be spread over devices.
    _no_split_modules: Collection[str] = [
        "CLIPTextEmbeddings",
        "RogleVisionEmbeddings",
        "CLIPEncoderLayer",
        "RegionHead",
        *(head.__name__ for head in HEADS.values()),
    ]

    def __init__(self, config: RogleConfig):
        super().__init__(config)
        self.vision_model.embeddings = RogleVisionEmbeddings(config)
        self.vision_model.encoder = RogleVisionEncoder(self.vision_model.encoder)
        self.region_head = RegionHead(config)
        self.identity_classifier = (
            nn.Linear(config.projection_dim, config.num_identities, bias=False) if config.num_identities else None
        )
        self.head: Head | None = HEADS[config.head](config) if config.head != "none" else None
        for encoder in (self.vision_model, self.text_model):
            if encoder.config.hidden_act == "quick_gelu":
                for layer in encoder.encoder.layers:
                    layer.mlp.activation_fn = QuickGELU()
        self.post_init()
        # FSDP looks for every listed class and fails on one that this model does not have.
        self._no_split_modules = set(self._no_split_modules) & {type(module).__name__ for module in self.modules()}

    def get_input_embeddings(self) -> nn.Module:
        """The table of word embeddings, which FSDP reads."""
        return self.text_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replaces the table of word embeddings."""
        self.text_model.set_input_embeddings(value)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, RegionHead):
            init.constant_(module.logit_scale, module.initial)
        elif isinstance(module, Head):
            module.init_weights(self.config.initializer_range)

    def encode_tokens(
        self, input_ids: torch.Tensor, keep_tokens: bool = False, keep_first: int | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Encodes texts of unequal length without computing their padding, which must be on the right.

        On a CPU the texts are packed, on other devices they are encoded in length buckets, see `text_packing.py`. In
        `torch.compile` and `torch.export` they are encoded with their padding, which gives the same embeddings.

        Args:
            input_ids: `[n, l]`.
            keep_tokens: also return the states of the tokens.
            keep_first: number of leading texts whose states are returned; all by default.

        Returns:
            `[n, d]` projected embeddings, not normalised, and `[n or keep_first, l, hidden]` final states, zero after
            each text's end, or an empty tensor.

        Raises:
            ValueError: a text is longer than the position table or padded on the left.
        """
        count = input_ids.shape[0]  # len() would be a constant of a graph
        keep = (count if keep_first is None else keep_first) if keep_tokens else 0
        if count == 0:
            zeros = self.text_projection.weight.new_zeros
            return zeros(0, self.projection_dim), zeros(0, input_ids.shape[1], self.text_embed_dim)
        pooled, tokens = encode_unpadded(
            self.text_model, input_ids, self.config.text_config.max_position_embeddings, keep
        )
        return self.text_projection(pooled), pooled.new_zeros(0) if tokens is None else tokens

    @torch.no_grad()
    def encode_images(
        self,
        pixel_values: torch.Tensor,
        boxes: torch.Tensor | None = None,
        box_image: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Global and region embeddings for retrieval, from one forward (`region_feature="crop"`: one more per box).

        Args:
            pixel_values: `[b, 3, height, width]`, normalised by the processor.
            boxes: `[n, 4]` x0, y0, x1, y1 in [0, 1], or None.
            box_image: `[n]` int64, the image of each box.

        Returns:
            `[b, d]` and `[n, d]` (None without boxes): unit vectors, float32.

        Raises:
            ValueError: a box without area in its image, or a box_image that names no image.
        """
        if not len(pixel_values):
            return (none := torch.zeros(0, self.projection_dim)), None if boxes is None else none
        last_block = last_block_for(None if boxes is None else self.config.region_feature)
        vision = self.vision_model(pixel_values=pixel_values, last_block=last_block)
        images = nn.functional.normalize(self.visual_projection(vision.pooler_output).float(), dim=-1)
        if boxes is None:
            return images, None
        regions = region_features(self, pixel_values, vision.last_hidden_state, last_block, boxes, box_image)
        return images, nn.functional.normalize(regions.float(), dim=-1)

    @torch.no_grad()
    def encode_texts(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        """Embeddings of captions, sentences or queries for retrieval.

        Args:
            input_ids: `[n, l]`, padded on the right.
            attention_mask: not needed, and accepted so that the processor's output can be passed as it is.

        Returns:
            `[n, d]` unit vectors, float32.
        """
        return nn.functional.normalize(self.encode_tokens(input_ids)[0].float(), dim=-1)

    @property
    def part_counts(self) -> tuple[int, int]:
        """K of [`RogleModel.encode_image_parts`] and K of [`RogleModel.encode_text_parts`]."""
        return (0, 0) if self.head is None else self.head.part_counts

    @torch.no_grad()
    def encode_image_parts(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Vectors of images that the head compares at inference: slots (`"parts"`), or stripes and the image
        (`"acsa"`).

        Args:
            pixel_values: `[b, 3, height, width]`, normalised by the processor.

        Returns:
            `[b, K, d]` unit vectors, float32; K is 0 for other heads.
        """
        return (self.head or Head()).encode_image_parts(self, pixel_values)

    @torch.no_grad()
    def encode_text_parts(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        """Vectors of texts that the head compares at inference, besides their embedding: the slots of `"parts"`.

        Args:
            input_ids: `[n, l]`, padded on the right.
            attention_mask: not needed, as in [`RogleModel.encode_texts`].

        Returns:
            `[n, K, d]` unit vectors, float32; K is 0 for other heads.
        """
        return (self.head or Head()).encode_text_parts(self, input_ids)

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
        sentence_numbers: torch.LongTensor | None = None,
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

        A loss over more than this batch is computed in one of two ways. `gather` concatenates the embeddings of
        several processes. `return_loss_inputs`, followed by a call with `loss_inputs` only, joins several calls.

        Args:
            input_ids: `[b, l]` captions, padded on the right.
            pixel_values: `[b, 3, height, width]`.
            attention_mask: `[b, l]`, read together with `position_ids` only.
            position_ids: `[b, l]`.
            boxes: `[n, 4]` regions, x0, y0, x1, y1 in [0, 1].
            box_image: `[n]` int64, the image of each region.
            sentence_input_ids: `[n, s]`, the sentence of each region.
            sentence_spans: `[n, 2]` first and past-last token of the sentence in its caption; -1 if the caption was cut
                before it, or if the batch's caption does not contain it.
            sentence_ids: `[n]` int64, equal for equal sentences; such pairs are not negatives of each other.
            sentence_numbers: `[n]` int64, equal for the pairs of one sentence of one image, whose regions are all its
                positives; None: each pair has a sentence of its own.
            part_ids: `[n]` int64, equal for the same part of the same person; these are not negatives either.
            pair_weight: `[n]` reliability of the region-sentence pairs in [0, 1].
            caption_weight: `[b]` reliability of the image-caption pairs in [0, 1].
            person_ids: `[b]` int64 identities, for positives beyond the diagonal.
            identities: `[b]` int64 classes in [0, `config.num_identities`), for the identity loss.
            short_input_ids: `[b, s]` short captions in addition to the long ones, for `short_loss_weight`.
            return_loss: compute the losses.
            interpolate_pos_encoding: accept images of another size (resizes the table in every call).
            loss_inputs: compute the losses of these only, see [`RogleModel.losses`]; nothing is encoded.
            return_loss_inputs: return the inputs of the losses; no loss is computed unless `return_loss` is set.
            gather: called with the loss inputs of this batch; returns those that the losses are computed from.
            **kwargs: `output_attentions`, `output_hidden_states` and `return_dict`, as in `CLIPModel`.

        Raises:
            ValueError: an argument is missing or does not fit the others, or is not known; an image has the wrong size;
                a box has no area; `output_attentions` is set without eager attention.
        """
        if loss_inputs is not None:
            loss_inputs = gather(loss_inputs) if gather else loss_inputs
            return RogleOutput(**self.losses(loss_inputs), loss_inputs=loss_inputs)
        batch = {"input_ids": input_ids, "pixel_values": pixel_values, "boxes": boxes, "box_image": box_image}
        batch |= {"attention_mask": attention_mask, "position_ids": position_ids, "part_ids": part_ids}
        batch |= {"sentence_input_ids": sentence_input_ids, "sentence_spans": sentence_spans}
        batch |= {"sentence_numbers": sentence_numbers}
        batch |= {"sentence_ids": sentence_ids, "pair_weight": pair_weight, "caption_weight": caption_weight}
        batch |= {"person_ids": person_ids, "identities": identities, "short_input_ids": short_input_ids}
        training = bool(return_loss) or return_loss_inputs
        check_batch(self.config, batch, training)
        step = self._encode_step(batch, training, interpolate_pos_encoding, self._encoder_options(kwargs))
        losses: dict[str, torch.Tensor] = {}
        if training:
            loss_inputs = collect_loss_inputs(step, self.head)
            if return_loss:
                loss_inputs = gather(loss_inputs) if gather else loss_inputs
                losses = self.losses(loss_inputs)
        logits_per_text = self.logit_scale.exp() * step.text_embeds @ step.image_embeds.T
        return RogleOutput(
            **losses,
            loss_inputs=loss_inputs if return_loss_inputs or gather else None,
            logits_per_image=logits_per_text.T,
            logits_per_text=logits_per_text,
            text_embeds=step.text_embeds,
            image_embeds=step.image_embeds,
            region_embeds=step.region_embeds,
            sentence_embeds=step.sentence_embeds,
            text_model_output=step.text,
            vision_model_output=step.vision,
        )

    def losses(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The loss and its terms, from the embeddings of one batch or of several batches concatenated.

        Args:
            inputs: as in [`objective.weighted_terms`].

        Returns:
            As [`objective.weighted_terms`].
        """
        scales = self.logit_scale, self.region_head()
        return weighted_terms(self.config, inputs, *scales, self.identity_classifier, self.head)

    def _encoder_options(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Checks further arguments of `forward`; returns those of both encoders."""
        unknown = set(kwargs) - {"output_attentions", "output_hidden_states", "return_dict", "num_items_in_batch"}
        if unknown:
            raise ValueError(f"RogleModel.forward has no argument {min(unknown)!r}")
        # transformers' Trainer passes num_items_in_batch to every model.
        options = {name: value for name, value in kwargs.items() if name != "num_items_in_batch"}
        for name in ("output_attentions", "output_hidden_states"):
            if getattr(self.config, name):  # the encoders read their own configurations only
                options.setdefault(name, True)
        for encoder in (self.vision_model, self.text_model):
            if options.get("output_attentions") and encoder.config._attn_implementation != "eager":
                raise ValueError(
                    f"output_attentions=True: {encoder.config._attn_implementation!r} attention computes no maps; call "
                    "model.set_attn_implementation('eager') first"
                )
        return options

    def _encode_step(
        self, batch: dict[str, torch.Tensor | None], training: bool, interpolate: bool, options: dict[str, Any]
    ) -> Step:
        """Encodes images, regions and texts of a batch, as far as the losses, the head or the caller read them."""
        reads = self.head.reads if training and self.head is not None else ()
        every_state = bool(options.get("output_hidden_states") or options.get("output_attentions"))
        embeds_regions = batch["boxes"] is not None or "regions" in reads
        last_block = last_block_for(
            self.config.region_feature if embeds_regions else None,
            last_states=every_state or not training or "patches" in reads,
        )
        vision = self.vision_model(
            pixel_values=batch["pixel_values"],
            interpolate_pos_encoding=interpolate,
            last_block=last_block,
            **options,
        )
        # One call for all texts: on a CPU each call reads all weights and adds a gradient of each.
        texts, kept = {}, set()
        masked = self.head.mask_words(batch["input_ids"]) if training and self.head is not None else None
        if masked is not None:
            texts["masked"] = masked[0]
            kept.add("masked")
        text = None
        if batch["position_ids"] is not None or every_state:
            captions = {name: batch[name] for name in ("input_ids", "attention_mask", "position_ids")}
            text = self.text_model(**captions, **options)
        else:
            texts["caption"] = batch["input_ids"]
            if not training or "words" in reads or needs_spans(self.config, batch):
                kept.add("caption")
        if training and self.config.short_loss_weight > 0:
            texts["short"] = batch["short_input_ids"]
        if batch["sentence_input_ids"] is not None:
            texts["sentence"] = batch["sentence_input_ids"]
        features, states = self._encode_tables(texts, kept)
        if text is None:
            text = BaseModelOutputWithPooling(
                last_hidden_state=states.get("caption"), pooler_output=features["caption"]
            )
        else:
            text.pooler_output = self.text_projection(text.pooler_output)
            features["caption"], states["caption"] = text.pooler_output, text.last_hidden_state
        vision.pooler_output = self.visual_projection(vision.pooler_output)

        normalize = nn.functional.normalize
        step = Step(
            model=self,
            batch=batch,
            vision=vision,
            last_block=last_block,
            text=text,
            text_features=features,
            text_states=states,
            masked_targets=None if masked is None else masked[1],
            image_embeds=normalize(vision.pooler_output, dim=-1),
            text_embeds=normalize(features["caption"], dim=-1),
        )
        if batch["boxes"] is not None:
            step.region_embeds = step.embed_regions(batch["boxes"], batch["box_image"])
        if "sentence" in features:
            step.sentence_embeds = normalize(features["sentence"], dim=-1)
        return step

    def _encode_tables(
        self, texts: dict[str, torch.Tensor], kept: set[str]
    ) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        """Encodes several tables of token ids in one call.

        Args:
            texts: tables `[n, l]` by name.
            kept: names of the tables whose token states are returned.

        Returns:
            Projected features `[n, d]` by name, and token states `[n, l, hidden]` of the kept tables by name.
        """
        names = sorted(texts, key=lambda name: name not in kept)  # the kept ones come first
        if not names:
            return {}, {}
        sizes = [len(texts[name]) for name in names]
        ids = stack_texts(*(texts[name] for name in names)) if len(names) > 1 else texts[names[0]]
        features, tokens = self.encode_tokens(ids, bool(kept), keep_first=sum(sizes[: len(kept)]))
        states = tokens.split(sizes[: len(kept)]) if kept else ()
        return (
            dict(zip(names, features.split(sizes), strict=True)),
            {name: table[:, : texts[name].shape[1]] for name, table in zip(names, states, strict=False)},
        )


__all__ = ["RogleModel", "RogleOutput"]
