"""accelerate launch --num_processes 1 train/train.py [--config train/configs/vitb16.yaml] [--dataset cuhk_pedes ...]

Trains Rogle: both branches, validated each epoch, the checkpoint chosen on *validation*, both protocols on test at the
end. Without arguments: a small model from scratch on the embedded synthetic P-VLG, minutes on two CPU cores. Every
field of `Recipe` is a flag (dashes) and a key of the YAML file; flags win. From a laptop to several machines:
docs/training.md.
"""

import json
import math
import os
import shlex
import shutil
import signal
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from datetime import timedelta
from pathlib import Path

if __name__ == "__main__":  # a script started by path: the root, not its own folder, is where packages are found
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs, PartialState
from accelerate.utils import broadcast_object_list, gather_object, set_seed
from datasets import Dataset
from huggingface_hub.errors import StrictDataclassError
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import get_cosine_schedule_with_warmup

from dataset_pvlg.loading import load_rows
from dataset_pvlg.mining.mine_rows import with_regions
from modeling_rogle import RogleConfig, RogleModel, RogleProcessor
from modeling_rogle.evaluation.protocols import both_protocols, encode_split, fit_local_weight, format_table
from modeling_rogle.reliability.pair_reliability import PairReliability
from train.both_captions import BothCaptions
from train.checkpoints import Checkpoints, TrainingState, broken, save_folder, write_json, write_text
from train.data.augment import Augmentation
from train.data.image_cache import image_cache
from train.data.noise import shuffle_captions, shuffle_sentences
from train.data.pairs import PairDataset, normalize_images
from train.data.sampling import GlobalBatchSampler
from train.data.streaming import stream_rows
from train.environment import describe_environment, tracker_names
from train.global_batch import GlobalBatch, forward_step
from train.guards import AskedToStop, BadImages, BadSteps, batches, to_device
from train.lora import add_adapters, merged
from train.mining_rounds import MiningRounds
from train.optimizer import MovingAverage, parameter_groups
from train.recipe import MODEL_FIELDS, Recipe, claim_folder, read_recipe
from train.report import draw_curves, write_card
from train.sharding import after_sharding, as_published, before_sharding, in_shards, let_go
from train.small_model import build_small_model
from train.trust import (
    BY_PLACES,
    agreement_of,
    agreement_of_captions,
    close_epoch,
    find_stand_ins,
    observe,
    pairs_of_all,
)


def prepare_model(
    recipe: Recipe, captions: Sequence[str], num_identities: int = 0
) -> tuple[RogleModel, RogleProcessor]:
    """Loads `recipe.model`, or builds the small model with a tokenizer trained on the captions.

    `num_identities`: classes of the identity loss, read only when the recipe asks for it.
    """
    fields = {name: getattr(recipe, name) for name in MODEL_FIELDS if getattr(recipe, name) is not None}
    if fields.get("id_loss_weight", 0) > 0:
        fields["num_identities"] = num_identities
    if recipe.model is None:
        return build_small_model(captions, **fields)
    try:
        stored, _ = RogleConfig.get_config_dict(recipe.model)
        old, weight = stored.get("num_identities", 0), fields.get("id_loss_weight", stored.get("id_loss_weight", 0))
        if old and weight > 0 and old != num_identities:
            raise ValueError(
                f"--model {recipe.model}: its num_identities is {old}, the data has {num_identities}; "
                "pass --id-loss-weight 0 to go on without its classifier"
            )
        if old and weight == 0:
            fields["num_identities"] = 0
        model = RogleModel.from_pretrained(recipe.model, dtype=torch.float32, **fields)
        processor = RogleProcessor.from_pretrained(recipe.model)
    except OSError as error:
        raise ValueError(f"--model {recipe.model}: {error}") from error
    return model, processor


def main(argv: Sequence[str] | None = None) -> dict:
    """Runs one recipe and returns the test scores (in the main process); of several `--seeds` their means."""
    recipe = read_recipe(argv)
    words = shlex.join(sys.argv[1:] if argv is None else argv)
    processes = os.environ.get("WORLD_SIZE", "1")  # nothing is started yet
    command = f"accelerate launch --num_processes {processes} train/train.py {words}".strip()
    return train_seeds(recipe, command) if recipe.seeds else train(recipe, command)


def train(recipe: Recipe, command: str) -> dict:
    """One run. Every process comes here; the main one writes and scores."""
    accelerator = Accelerator(
        mixed_precision=recipe.mixed_precision,
        log_with=tracker_names(recipe.trackers),
        project_dir=recipe.out,
        # Buffers never change; others may wait long while the main process validates.
        kwargs_handlers=[
            DistributedDataParallelKwargs(broadcast_buffers=False),
            InitProcessGroupKwargs(timeout=timedelta(hours=2)),
        ],
    )
    say, processes = accelerator.print, accelerator.num_processes
    if recipe.lora_rank and in_shards(accelerator):
        raise SystemExit(
            "train.py: --lora-rank: not under FSDP; adapters and their moments are small, train them with DDP"
        )
    if accelerator.device.type == "cpu" and processes == 1:
        # `accelerate launch` leaves one thread to a process unless it is told otherwise.
        torch.set_num_threads(recipe.threads or os.cpu_count() or 1)
    set_seed(recipe.seed)
    out = Path(recipe.out)

    # Data and model, the same in every process.
    try:
        with accelerator.main_process_first():  # who builds the data's cache
            read_report = shards = None
            if recipe.stream:
                data, shards = stream_rows(recipe.data_root, recipe.shuffle_buffer)
            else:
                data, read_report = load_rows(recipe.dataset, recipe.data_root, recipe.image_root, images=True)
        if read_report is not None:
            say(read_report)
        absent = [split for split in ("train", "validation", "test") if not len(data.get(split, ()))]
        if absent:
            raise ValueError(f"{recipe.dataset}: no rows in split {absent[0]!r}, which a run needs")
        train_rows = data["train"]
        captions = train_rows["caption"][:] + [c for row in train_rows["captions"][:] for c in row]
        model, processor = prepare_model(recipe, captions, len(set(train_rows["person_id"][:])))
    except (ValueError, OSError, StrictDataclassError) as error:  # the user's data or checkpoint, not our code
        raise SystemExit(f"train.py: {' '.join(str(error).split())}") from None
    if accelerator.is_main_process:
        claim_folder(out, recipe)
        write_json(out / "environment.json", describe_environment(accelerator))
    accelerator.wait_for_everyone()
    if accelerator.log_with:
        accelerator.init_trackers("trackers", {name: str(value) for name, value in asdict(recipe).items()})
    paired = any(region["sentence"] >= 0 for regions in train_rows["regions"][:] for region in regions)
    rounds = None
    if recipe.regions == "mined" or (recipe.regions == "rows" and not paired):
        if shards:
            raise SystemExit("train.py: --stream: no paired regions; mine them first, or pass --regions none")
        if recipe.shuffle_sentences or recipe.shuffle_captions:
            raise SystemExit("train.py: --shuffle-... makes noise of the data's own pairs, and here RSM mines others")
        if in_shards(accelerator):  # the main process mines, and alone it has not the whole model
            raise SystemExit("train.py: under FSDP pairs cannot be mined; first run rogle mine, or pass --regions none")
        first = min(recipe.mine_epoch, recipe.epochs - 1)  # else none would be left to learn from them
        why = "no paired regions in the data: they" if recipe.regions == "rows" else "pairs"
        say(f"{why} will be mined (RSM) after {first} epochs")
        train_rows = with_regions(train_rows, [[]] * len(train_rows))  # asked for: not even those there are
        rounds = MiningRounds(out / "mined", first, recipe.mine_every, say)
    pairs = (BothCaptions if model.config.short_loss_weight > 0 else PairDataset)(
        train_rows,
        processor,
        long_share=recipe.long_share,
        max_pairs=0 if recipe.regions == "none" else recipe.max_pairs,
        flip=recipe.flip,
        seed=recipe.seed,
        cache_bytes=0 if recipe.workers or shards else 2 << 30,
        augmentation=Augmentation(
            recipe.crop, recipe.erase, recipe.drop_sentences, recipe.reorder_sentences, recipe.approximate, recipe.mix
        ),
        cache=image_cache(train_rows, processor, recipe.image_cache),
        images=shards,
    )
    if rounds:  # counted as after any round, for the trackers of trust
        pairs.set_regions(pairs.regions, one_a_sentence=True)
    truth = {
        "global": shuffle_captions(pairs, recipe.shuffle_captions, recipe.seed),
        "local": shuffle_sentences(pairs, recipe.shuffle_sentences, recipe.seed),
    }
    kind, of_captions = model.config.reliability_local, model.config.reliability_global
    trust = {
        "global": PairReliability(
            of_captions, len(pairs), agreement=agreement_of_captions(pairs) if of_captions == "identity" else None
        ),
        "local": PairReliability(kind, pairs.n_pairs, agreement=agreement_of(pairs) if kind in BY_PLACES else None),
    }
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
        generator=torch.Generator().manual_seed(recipe.seed),  # else each epoch would draw from the run's own
    )

    # What learns.
    adapted = None
    if recipe.lora_rank:
        named = Path(recipe.model).name if recipe.model and Path(recipe.model).exists() else recipe.model
        adapted = add_adapters(model, recipe.lora_rank, recipe.lora_alpha, recipe.lora_targets, recipe.lora_dora, named)
    bare = model  # with the adapters in it, if any
    if recipe.compile:
        bare.vision_model.compile()
    if in_shards(accelerator):
        before_sharding(accelerator, bare)
    groups = parameter_groups(model, recipe.weight_decay, recipe.learning_rate, recipe.layer_decay)
    optimizer = torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(0.9, 0.98), fused=True)
    steps = recipe.epochs * len(sampler)
    # Not prepared: Accelerate would step it once for each process.
    schedule = get_cosine_schedule_with_warmup(optimizer, int(recipe.warmup_share * steps), steps)
    model, optimizer = accelerator.prepare(model.to(accelerator.device), optimizer)
    after_sharding(bare)
    average = MovingAverage(bare, recipe.ema_decay) if recipe.ema_decay else None
    parts = min(recipe.micro_batches, sampler.batch_size)

    # Where the run stands, whole in every checkpoint.
    progress = {
        "step": 0, "epoch": 0, "position": 0, "best": -1.0, "best_epoch": 0, "bad_steps": 0, "bad_images": [],
        "seconds": 0.0, "cpu_seconds": 0.0, "waited": 0.0, "steps_seconds": 0.0, "sums": {}, "finite": 0,
        "history": [],
    }  # fmt: skip
    checkpoints = Checkpoints(out / "checkpoints", recipe.keep_checkpoints)
    extra = {f"trust_{side}": each for side, each in trust.items()} | ({"average": average} if average else {})
    state = TrainingState(accelerator, model, optimizer, schedule, extra, sampler.global_batch)
    found = _checkpoint_to_resume(recipe, checkpoints, say) if accelerator.is_main_process else None
    if found := broadcast_object_list([found])[0]:
        progress = state.load(found)
        say(f"resumed from {found}: step {progress['step']} of {steps}, {progress['epoch']} epochs done")
    if processor.truncated_captions:
        limit = processor.tokenizer.model_max_length
        say(f"{processor.truncated_captions} captions over {limit} tokens were cut at a sentence's end")
    trained = sum(p.numel() for p in bare.parameters() if p.requires_grad)
    size = sum(p.numel() for p in bare.parameters())
    say(f"{len(pairs)} images, {steps} steps of {sampler.global_batch} images in {processes} processes, "
        f"{trained:,} of {size:,} parameters, {accelerator.device}")  # fmt: skip

    gather = GlobalBatch(processes, accelerator.process_index)
    bad_steps = BadSteps(out / "bad_steps.json", progress, recipe.max_bad_steps, accelerator.is_main_process)
    bad_images = BadImages(out / f"bad_images{_of(accelerator)}.json", recipe.max_bad_images, print)
    bar = tqdm(total=steps, initial=progress["step"], disable=not accelerator.is_main_process, desc="train")
    with AskedToStop(gather.ask_to_stop):
        for epoch in range(progress["epoch"], recipe.epochs):
            if rounds:
                found = rounds.enter(epoch, accelerator, bare, processor, train_rows)
                pairs.set_regions(found, one_a_sentence=True)
                if kind in BY_PLACES:
                    trust["local"].agreement = agreement_of(pairs)
            if of_captions == "identity":
                say(find_stand_ins(pairs, trust["global"].weights()))
            if trust["local"].kind != "none":
                pairs.trust = trust["local"].weights().numpy()
            model.train()

            def enter(step: int, epoch: int = epoch) -> None:
                sampler.set_epoch(epoch, step)
                pairs.set_epoch(epoch)

            for batch in _timed(batches(loader, enter, progress["position"], print), progress):
                image_ids, rows, numbers = batch.pop("image_ids"), batch.pop("row_numbers"), batch.pop("pair_numbers")
                told = batch.pop("caption_rows")
                own = torch.where((told == rows) & (batch["person_ids"] >= 0), rows, -1)  # mixed ones have new people
                bad_images.note(batch.pop("faults"))
                batch = to_device(batch, accelerator.device)
                batch["pixel_values"] = normalize_images(batch.pop("images"), processor)
                if trust["global"].kind != "none":
                    batch["caption_weight"] = trust["global"].weights(told).to(accelerator.device)
                if trust["local"].kind != "none" and "pair_weight" in batch:
                    batch["pair_weight"] = batch["pair_weight"] * trust["local"].weights(numbers).to(accelerator.device)

                output, backward = forward_step(accelerator, model, batch, gather, parts)
                loss, ids = output.loss.item(), lambda image_ids=image_ids: gather_object(image_ids)
                good = bad_steps.check("loss", loss, ids)
                if good:
                    observe(trust, output.loss_inputs, **pairs_of_all(gather, trust, own, numbers, batch))
                    backward()
                    norm = accelerator.clip_grad_norm_(model.parameters(), recipe.max_grad_norm)
                    # A scaler of fp16 meets infinite gradients by the way, and leaves such steps out itself.
                    good = accelerator.scaler is not None or bad_steps.check("gradient", float(norm), ids)
                if good:
                    optimizer.step()
                    with torch.no_grad():  # past CLIP's limit their losses would have no gradient to come back by
                        for scale in (bare.logit_scale, bare.region_head.logit_scale):
                            scale.clamp_(max=math.log(100))
                    if average:
                        average.update()
                    progress["finite"] += 1
                    for name, value in output.items():
                        if name.startswith("loss") and name != "loss_inputs":
                            progress["sums"][name] = progress["sums"].get(name, 0.0) + value.item()
                optimizer.zero_grad()
                schedule.step()
                progress["step"] += 1
                progress["position"] += 1
                bar.update()
                bar.set_postfix(loss=f"{loss:.3f}", best=f"{max(progress['best'], 0):.1f}")
                due = recipe.save_steps and progress["step"] % recipe.save_steps == 0
                if gather.stop or (due and progress["position"] < len(sampler)):  # an epoch's last follows validation
                    state.save(checkpoints, progress)
                if gather.stop:
                    say(f"SIGTERM: saved after step {progress['step']} of {steps}; go on with --resume auto")
                    raise SystemExit(128 + signal.SIGTERM)

            trusted = close_epoch(trust, truth)
            began = time.perf_counter()
            let_go(bare)
            with average.in_place() if average else nullcontext():
                found = _validated(accelerator, model, bare, processor, data["validation"])
                improved = found["global/long/R@1"] > progress["best"]
                if improved:
                    progress["best"], progress["best_epoch"] = found["global/long/R@1"], epoch + 1
                    _save_best(accelerator, model, bare, adapted, processor, out)
            progress["seconds"] += time.perf_counter() - began
            finite, busy = max(progress["finite"], 1), max(progress["steps_seconds"], 1e-9)
            entry = {"epoch": epoch + 1, "step": progress["step"], "seconds": round(progress["seconds"], 1)}
            entry |= {"cpu_seconds": round(progress["cpu_seconds"], 1)} | trusted
            entry |= {"data_wait_share": round(progress["waited"] / busy, 4)}
            entry |= {name: total / finite for name, total in progress["sums"].items()}
            entry |= {f"validation/{name}": value for name, value in found.items()}
            progress["history"].append(entry)
            progress |= {"epoch": epoch + 1, "position": 0, "sums": {}, "finite": 0}
            progress |= {"waited": 0.0, "steps_seconds": 0.0}
            state.save(checkpoints, progress)
            accelerator.log(entry, step=progress["step"])
            if accelerator.is_main_process:
                write_text(out / "train_log.jsonl", "".join(json.dumps(e) + "\n" for e in progress["history"]))
    bar.close()
    results = _finish(recipe, command, accelerator, processor, data, progress) if accelerator.is_main_process else {}
    accelerator.wait_for_everyone()
    for tracker in accelerator.trackers:
        tracker.finish()
    return results


def _finish(
    recipe: Recipe, command: str, accelerator: Accelerator, processor: RogleProcessor, data: dict, progress: dict
) -> dict:
    """Fits the weight of the local similarity on validation, scores test once, writes results, curves and card."""
    out, say = Path(recipe.out), accelerator.print
    best = RogleModel.from_pretrained(out / "best").to(accelerator.device).eval()
    validation = encode_split(best, processor, data["validation"], progress=False, split="validation")
    best.config.local_weight, _ = fit_local_weight(validation)
    adapter = out / "best" / "adapter"

    def write(folder: Path) -> None:
        best.save_pretrained(folder)
        processor.save_pretrained(folder)
        if adapter.exists():
            shutil.copytree(adapter, folder / "adapter")

    save_folder(out / "best", write)
    results = both_protocols(
        encode_split(best, processor, data["test"], progress=False, split="test"), best.config.local_weight
    )
    summary = {
        "command": command,
        "split": "test",
        "chosen_on": f"validation R@1 of long captions, epoch {progress['best_epoch']} of {recipe.epochs}",
        "local_weight": best.config.local_weight,
        "training_seconds": round(progress["seconds"], 1),
        "bad_steps": progress["bad_steps"],
        "results": results,
    }
    write_json(out / "results.json", summary)
    draw_curves(progress["history"], out / "curves.png")
    write_card(out / "best" / "README.md", asdict(recipe), summary)
    minutes = progress["seconds"] / 60
    say(f"best epoch {progress['best_epoch']}, chosen on validation; trained {minutes:.1f} min; test split:")
    say(format_table(results))
    return results


def train_seeds(recipe: Recipe, command: str) -> dict:
    """One run for each seed, in folders of their own, one after the other; then mean and standard deviation."""
    found = []
    for seed in recipe.seeds:
        one = replace(recipe, seed=seed, seeds=[], out=str(Path(recipe.out) / f"seed-{seed}"))
        found.append(train(one, command))
    names = [name for name in found[0] if all(name in each for each in found)]
    mean = {name: statistics.mean(each[name] for each in found) for name in names}
    spread = {name: statistics.stdev(each[name] for each in found) if len(found) > 1 else 0.0 for name in names}
    if PartialState().is_main_process:
        write_json(Path(recipe.out) / "seeds.json", {"seeds": recipe.seeds, "mean": mean, "deviation": spread})
        for name in names:
            print(f"{name:<32} {mean[name]:8.2f} ± {spread[name]:.2f}")
    return mean


def _checkpoint_to_resume(recipe: Recipe, checkpoints: Checkpoints, say: Callable[[str], None]) -> Path | None:
    if recipe.resume in (None, "auto"):  # None: the folder was empty
        return checkpoints.newest(say)
    if fault := broken(Path(recipe.resume)):
        raise SystemExit(f"--resume {recipe.resume}: {fault}")
    return Path(recipe.resume)


def _of(accelerator: Accelerator) -> str:
    return "" if accelerator.is_main_process else f"-{accelerator.process_index}"


def _timed(found: Iterator[dict], progress: dict) -> Iterator[dict]:
    """Adds the time of the steps to the progress, and apart from it how much of that was waiting for data."""
    while True:
        began, cpu = time.perf_counter(), time.process_time()
        batch = next(found, None)
        if batch is None:
            return
        progress["waited"] += time.perf_counter() - began
        yield batch
        for name in ("seconds", "steps_seconds"):
            progress[name] += time.perf_counter() - began
        progress["cpu_seconds"] += time.process_time() - cpu  # of training alone


def _validated(
    accelerator: Accelerator, model: torch.nn.Module, bare: RogleModel, processor: RogleProcessor, rows: Dataset
) -> dict[str, float]:
    """Scores of the main process, the same in all. Where weights are in shards all take part in each forward."""
    model.eval()
    found = None
    if accelerator.is_main_process or in_shards(accelerator):
        found = both_protocols(encode_split(bare, processor, rows, progress=False, split="validation"))
        let_go(bare)
    return broadcast_object_list([found])[0]


def _save_best(
    accelerator: Accelerator,
    model: torch.nn.Module,
    bare: RogleModel,
    adapted: object | None,
    processor: RogleProcessor,
    out: Path,
) -> None:
    """The whole model, merged where it has adapters, and beside it the adapters alone."""
    weights = None if adapted else accelerator.get_state_dict(model)
    if not accelerator.is_main_process:
        return

    def write(folder: Path) -> None:
        if adapted:
            merged(adapted).save_pretrained(folder)
            adapted.save_pretrained(folder / "adapter")
        else:
            bare.save_pretrained(folder, state_dict=as_published(weights))
        processor.save_pretrained(folder)

    save_folder(out / "best", write)


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError, ImportError) as error:  # one line that names file and field, not a deep trace
        raise SystemExit(f"train.py: {' '.join(str(error).split())}") from error
    if PartialState().num_processes > 1:
        PartialState().destroy_process_group()
