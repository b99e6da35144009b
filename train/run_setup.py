"""What a run consists of: data, model, sampler, optimizer and the checkpoint it resumes from, built from its recipe."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs
from accelerate.utils import broadcast_object_list, set_seed
from datasets import Dataset
from huggingface_hub.errors import StrictDataclassError
from torch.utils.data import DataLoader
from transformers import get_cosine_schedule_with_warmup

from dataset_pvlg.loading import load_rows
from dataset_pvlg.mining.mine_rows import with_regions
from modeling_rogle import RogleConfig, RogleModel, RogleProcessor
from train.checkpoints import Checkpoints, Progress, TrainingState, find_fault, write_json
from train.data.augment import Augmentation
from train.data.image_cache import image_cache
from train.data.noise import shuffle_captions, shuffle_sentences
from train.data.pairs import PairDataset
from train.data.sampling import GlobalBatchSampler
from train.data.streaming import ShardImages, stream_rows
from train.environment import describe_environment, tracker_names
from train.lora import add_adapters
from train.mining_rounds import MiningRounds
from train.optimizer import parameter_groups
from train.recipe import Recipe, claim_folder, flat_fields
from train.reliability import RunReliability
from train.sharding import after_sharding, before_sharding, is_sharded
from train.small_model import build_small_model

if TYPE_CHECKING:
    from peft import PeftModel

CACHE_BYTES = 2 << 30  # resized images are kept in memory up to this size, if no worker reads them
INPUT_ERRORS = (ValueError, OSError, StrictDataclassError)  # errors of the user's data or checkpoint


@dataclass
class Run:
    """Everything that [`Trainer`] works with.

    Args:
        recipe: the choices of the run.
        accelerator: devices and processes.
        splits: P-VLG rows by split.
        train_rows: training rows, without their regions if pairs are mined.
        model: the model itself, with its adapters if it has any.
        prepared: the model as prepared by Accelerate; this one is called in training.
        adapted: peft's wrapper of the model, None without adapters.
        processor: resizes images and tokenises.
        pairs: training samples.
        rounds: mining rounds, None if the data set's own pairs are used.
        reliability: trackers of the training pairs.
        sampler: order of the rows.
        loader: batches of `pairs` in this order.
        optimizer: as prepared by Accelerate.
        schedule: learning rates.
        checkpoints: folder of checkpoints.
        state: everything that a checkpoint contains, apart from `progress`.
        progress: steps, epochs and scores so far.
        steps: number of steps of the whole run.
    """

    recipe: Recipe
    accelerator: Accelerator
    splits: dict[str, Dataset]
    train_rows: Dataset
    model: RogleModel
    prepared: torch.nn.Module
    adapted: "PeftModel | None"
    processor: RogleProcessor
    pairs: PairDataset
    rounds: MiningRounds | None
    reliability: RunReliability
    sampler: GlobalBatchSampler
    loader: DataLoader
    optimizer: Any
    schedule: Any
    checkpoints: Checkpoints
    state: TrainingState
    progress: Progress
    steps: int


def set_up(recipe: Recipe) -> Run:
    """Builds a run and restores its newest checkpoint, if there is one. Every process calls it.

    Raises:
        SystemExit: data, checkpoint or flags that do not fit; one line.
    """
    accelerator = make_accelerator(recipe)
    set_seed(recipe.seed)
    try:
        splits, shards = load_splits(recipe, accelerator)
        train_rows = splits["train"]
        captions = train_rows["caption"][:] + [c for row in train_rows["captions"][:] for c in row]
        model, processor = prepare_model(recipe, captions, len(set(train_rows["person_id"][:])))
    except INPUT_ERRORS as error:
        cause = error.__cause__ if isinstance(error, StrictDataclassError) and error.__cause__ else error
        raise SystemExit(f"train.py: {' '.join(str(cause).split())}") from None
    _claim_out(recipe, accelerator)
    rounds = make_mining_rounds(recipe, train_rows, shards, accelerator)
    if rounds:  # pairs of the data set are not used beside mined ones
        train_rows = with_regions(train_rows, [[]] * len(train_rows))
    pairs = make_pairs(recipe, train_rows, processor, shards, model.config.short_loss_weight > 0)
    if rounds:  # numbered as after a mining round, for the trackers of reliability
        pairs.set_regions(pairs.regions, number_by_sentence=True)
    truth = {
        "global": shuffle_captions(pairs, recipe.shuffle_captions, recipe.seed),
        "local": shuffle_sentences(pairs, recipe.shuffle_sentences, recipe.seed),
    }
    reliability = RunReliability(model.config, pairs, truth)
    sampler, loader = make_loader(recipe, pairs, shards, accelerator)

    adapted = _adapt(recipe, model)
    if recipe.compile:
        model.vision_model.compile()
    if is_sharded(accelerator):
        before_sharding(accelerator, model)
    groups = parameter_groups(model, recipe.weight_decay)
    optimizer = torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(0.9, 0.98), fused=True)
    steps = recipe.epochs * len(sampler)
    # The schedule is not prepared: Accelerate would step it once for each process.
    schedule = get_cosine_schedule_with_warmup(optimizer, int(recipe.warmup_share * steps), steps)
    prepared, optimizer = accelerator.prepare(model.to(accelerator.device), optimizer)
    after_sharding(model)
    trackers = {f"trust_{side}": tracker for side, tracker in reliability.trackers.items()}
    state = TrainingState(accelerator, prepared, optimizer, schedule, trackers, sampler.global_batch)
    checkpoints = Checkpoints(Path(recipe.out) / "checkpoints", recipe.keep_checkpoints)
    progress = resume(recipe, checkpoints, state, steps, accelerator)
    return Run(
        recipe, accelerator, splits, train_rows, model, prepared, adapted, processor, pairs, rounds, reliability,
        sampler, loader, optimizer, schedule, checkpoints, state, progress, steps,
    )  # fmt: skip


def make_accelerator(recipe: Recipe) -> Accelerator:
    """Accelerate with the recipe's precision and trackers, and the CPU threads of a run without a GPU.

    Raises:
        SystemExit: adapters under FSDP.
    """
    accelerator = Accelerator(
        mixed_precision=recipe.mixed_precision,
        log_with=tracker_names(recipe.trackers),
        project_dir=recipe.out,
        # Buffers never change. Other processes may wait long while the main process validates.
        kwargs_handlers=[
            DistributedDataParallelKwargs(broadcast_buffers=False),
            InitProcessGroupKwargs(timeout=timedelta(hours=2)),
        ],
    )
    if recipe.lora_rank and is_sharded(accelerator):
        raise SystemExit(
            "train.py: --lora-rank: not under FSDP; adapters and their moments are small, train them with DDP"
        )
    if accelerator.device.type == "cpu" and accelerator.num_processes == 1:
        # `accelerate launch` gives a process one thread by default.
        torch.set_num_threads(recipe.threads or os.cpu_count() or 1)
    return accelerator


def load_splits(recipe: Recipe, accelerator: Accelerator) -> tuple[dict[str, Dataset], ShardImages | None]:
    """The splits of the data set; with `stream` the images of the training split separately.

    Raises:
        ValueError, OSError: the data cannot be read, or a split is missing.
    """
    shards = None
    with accelerator.main_process_first():  # the main process builds the cache of the data
        if recipe.stream:
            splits, shards = stream_rows(recipe.data_root, recipe.shuffle_buffer)
        else:
            splits, report = load_rows(recipe.dataset, recipe.data_root, recipe.image_root, images=True)
            if report is not None:
                accelerator.print(report)
    missing = [split for split in ("train", "validation", "test") if not len(splits.get(split, ()))]
    if missing:
        raise ValueError(f"{recipe.dataset}: no rows in split {missing[0]!r}, which a run needs")
    return splits, shards


def prepare_model(
    recipe: Recipe, captions: Sequence[str], num_identities: int = 0
) -> tuple[RogleModel, RogleProcessor]:
    """Loads `recipe.model`, or builds the small model with a tokenizer trained on the captions.

    Args:
        recipe: its `model` and `model_config` are read.
        captions: texts for the tokenizer of the small model.
        num_identities (`int`, defaults to 0): classes of the identity loss, used if its weight is positive.

    Raises:
        ValueError: the checkpoint cannot be read, or has a classifier of another number of identities.
    """
    config = dict(recipe.model_config)
    trains_regions = recipe.regions != "none" and config.get("local_loss_weight", 1) > 0
    if config.get("id_loss_weight", 0) > 0:
        config["num_identities"] = num_identities
    if recipe.model is None:
        return build_small_model(captions, **{"trained_regions": trains_regions} | config)
    try:
        stored, _ = RogleConfig.get_config_dict(recipe.model)
        old, weight = stored.get("num_identities", 0), config.get("id_loss_weight", stored.get("id_loss_weight", 0))
        if old and weight > 0 and old != num_identities:
            raise ValueError(
                f"--model {recipe.model}: its num_identities is {old}, the data has {num_identities}; "
                "pass --id-loss-weight 0 to continue without its classifier"
            )
        if old and weight == 0:
            config["num_identities"] = 0
        model = RogleModel.from_pretrained(recipe.model, dtype=torch.float32, **config)
        processor = RogleProcessor.from_pretrained(recipe.model)
    except OSError as error:
        raise ValueError(f"--model {recipe.model}: {error}") from error
    processor.fit = "squeeze"  # the boxes of regions are relative to the whole image
    model.config.trained_regions = model.config.trained_regions or trains_regions
    return model, processor


def make_mining_rounds(
    recipe: Recipe, rows: Dataset, shards: ShardImages | None, accelerator: Accelerator
) -> MiningRounds | None:
    """Mining rounds, if the recipe requests them or the rows have no region-sentence pairs.

    Raises:
        SystemExit: mining combined with streaming, noise or FSDP.
    """
    has_pairs = any(region["sentence"] >= 0 for regions in rows["regions"][:] for region in regions)
    if recipe.regions == "none" or (recipe.regions == "rows" and has_pairs):
        return None
    if shards:
        raise SystemExit("train.py: --stream: no paired regions; mine them first, or pass --regions none")
    if recipe.shuffle_sentences or recipe.shuffle_captions:
        raise SystemExit("train.py: --shuffle-captions and --shuffle-sentences need pairs of the data set, not mining")
    if is_sharded(accelerator):  # the main process mines, and its weights alone are incomplete
        raise SystemExit("train.py: under FSDP pairs cannot be mined; run rogle mine first, or pass --regions none")
    first = min(recipe.mine_epoch, recipe.epochs - 1)  # at least one epoch must use the pairs
    reason = "no paired regions in the data: they" if recipe.regions == "rows" else "pairs"
    accelerator.print(f"{reason} will be mined (RSM) after {first} epochs")
    return MiningRounds(Path(recipe.out) / "mined", first, recipe.mine_every, accelerator.print)


def make_pairs(
    recipe: Recipe, rows: Dataset, processor: RogleProcessor, shards: ShardImages | None, short_captions: bool
) -> PairDataset:
    """The training samples, without noise."""
    return PairDataset(
        rows,
        processor,
        long_share=recipe.long_share,
        max_pairs=0 if recipe.regions == "none" else recipe.max_pairs,
        flip=recipe.flip,
        seed=recipe.seed,
        cache_bytes=0 if recipe.workers or shards else CACHE_BYTES,
        augmentation=Augmentation(recipe.crop, recipe.erase, recipe.approximate, recipe.mix),
        cache=image_cache(rows, processor, recipe.image_cache),
        images=shards,
        short_captions=short_captions,
    )


def make_loader(
    recipe: Recipe, pairs: PairDataset, shards: ShardImages | None, accelerator: Accelerator
) -> tuple[GlobalBatchSampler, DataLoader]:
    """The order of the rows, and the batches of this process."""
    processes = accelerator.num_processes
    sampler = GlobalBatchSampler(
        pairs.families,
        min(recipe.batch_size, len(pairs) // processes),
        recipe.seed,
        recipe.images_per_identity,
        accelerator.process_index,
        processes,
        shards.lengths if shards else None,
        recipe.shuffle_buffer,
    )
    loader = DataLoader(
        pairs,
        batch_sampler=sampler,
        collate_fn=pairs.collate,
        num_workers=recipe.workers,
        pin_memory=accelerator.device.type == "cuda",
        generator=torch.Generator().manual_seed(recipe.seed),  # otherwise each epoch would draw from the global one
    )
    return sampler, loader


def resume(
    recipe: Recipe, checkpoints: Checkpoints, state: TrainingState, steps: int, accelerator: Accelerator
) -> Progress:
    """Restores the newest complete checkpoint, or the one that `--resume` names; without any, a new progress."""
    path = _find_checkpoint(recipe, checkpoints, accelerator.print) if accelerator.is_main_process else None
    path = broadcast_object_list([path])[0]
    if path is None:
        return Progress()
    progress = state.load(path)
    accelerator.print(f"resumed from {path}: step {progress.step} of {steps}, {progress.epoch} epochs done")
    return progress


def _find_checkpoint(recipe: Recipe, checkpoints: Checkpoints, log: Callable[[str], None]) -> Path | None:
    if recipe.resume in (None, "auto"):  # None: the folder was empty
        return checkpoints.newest(log)
    if fault := find_fault(Path(recipe.resume)):
        raise SystemExit(f"--resume {recipe.resume}: {fault}")
    return Path(recipe.resume)


def _claim_out(recipe: Recipe, accelerator: Accelerator) -> None:
    out = Path(recipe.out)
    if accelerator.is_main_process:
        claim_folder(out, recipe)
        write_json(out / "environment.json", describe_environment(accelerator))
    accelerator.wait_for_everyone()
    if accelerator.log_with:
        accelerator.init_trackers("trackers", {name: str(value) for name, value in flat_fields(recipe).items()})


def _adapt(recipe: Recipe, model: RogleModel) -> "PeftModel | None":
    """Adds the adapters in place, if the recipe requests them."""
    if not recipe.lora_rank:
        return None
    base = Path(recipe.model).name if recipe.model and Path(recipe.model).exists() else recipe.model
    return add_adapters(model, recipe.lora_rank, recipe.lora_targets, base)


__all__ = ["Run", "prepare_model", "set_up"]
