"""python -m benchmarks.speed.train_throughput [--images N] [--batch N] [--rounds N] [--waiting]

Does the loader starve the step? On images written as JPEG files of a pedestrian data set's size, read as a run reads
them. Ratios are what to read, for all variants take turns in one process.

    loader          images/s of `PairDataset`, decoded at draft size, resized once, uint8, against a plain loop
                    (PIL open, convert, `CLIPImageProcessor`, tokenizer) in the same run; both in one process
    cached          the same in the second epoch, from memory; `disk` from the file of resized images, and `filling`
                    the first epoch, which writes it
    step            CPU seconds of a whole training step with its loading, first and later epochs, from memory and from
                    disk, over the same step on a batch that lies in memory; and of a run of 10 epochs
    waiting         share of the time of a run's steps spent waiting for a data worker, which train_log.jsonl has as
                    data_wait_share (--waiting; on a machine with other work it says little)

The step itself against plain CLIP, at both sizes: benchmarks/speed/step.py. On a GPU, where there is one: images/s of the
step at bf16, with and without torch.compile, and peak memory of batches up to 4,096 with gradient caching.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

import torch  # noqa: E402
from accelerate import Accelerator  # noqa: E402
from datasets import Dataset  # noqa: E402
from PIL import Image  # noqa: E402
from torch.utils.data import DataLoader  # noqa: E402

from benchmarks.speed.step import configurations, random_batch  # noqa: E402
from dataset_pvlg.features import FEATURES  # noqa: E402
from dataset_pvlg.loading import load_rows  # noqa: E402
from modeling_rogle import RogleModel, RogleProcessor  # noqa: E402
from train.data.batch import Batch  # noqa: E402
from train.data.image_cache import image_cache  # noqa: E402
from train.data.pairs import PairDataset, normalize_images  # noqa: E402
from train.global_batch import GlobalBatch, forward_step  # noqa: E402
from train.small_model import build_small_model  # noqa: E402

SIZE = (256, 768)  # width and height of the files, in pixels: larger than the model reads, as in UFine6926


def jpeg_rows(folder: Path, count: int) -> Dataset:
    """Synthetic rows whose images are JPEG files, enlarged, boxes with them."""
    rows = load_rows("synthetic-tiny")[0]["train"]
    found = []
    for number in range(count):
        row = rows[number % len(rows)]
        x, y = SIZE[0] / row["width"], SIZE[1] / row["height"]
        path = folder / f"{number}.jpg"
        row["image"].convert("RGB").resize(SIZE, Image.Resampling.BICUBIC).save(path, quality=90)
        boxes = [[b[0] * x, b[1] * y, b[2] * x, b[3] * y] for b in (region["bbox"] for region in row["regions"])]
        regions = [region | {"bbox": box} for region, box in zip(row["regions"], boxes, strict=True)]
        found.append(
            row
            | {"image": {"path": str(path), "bytes": None}, "image_id": str(number), "regions": regions}
            | {"width": SIZE[0], "height": SIZE[1]}
        )
    return Dataset.from_list(found, features=FEATURES)


def plain_loop(rows: Dataset, captions: Sequence[str], processor: RogleProcessor, numbers: Sequence[int]) -> None:
    """What published training code does: open, convert, process, pad."""
    images = rows.select_columns("image")
    for number in numbers:
        image = images[number]["image"].convert("RGB")
        processor.image_processor(images=image, return_tensors="pt")
        processor.tokenizer(captions[number], padding="max_length", truncation=True, return_tensors="pt")


def seconds_of(work: Callable[[], object], clock: Callable[[], float] = time.process_time) -> float:
    began = clock()
    work()
    return clock() - began


def main(argv: Sequence[str] | None = None) -> dict[str, float]:
    """Measures, prints a table, and returns the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=96)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--waiting", action="store_true", help="also a data worker, in seconds of the clock")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    names = ("loader", "cached", "filling", "disk", "plain", "step", "loaded", "later", "loaded, disk", "later, disk")
    found: dict[str, list[float]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as folder:
        rows = jpeg_rows(Path(folder), args.images)
        captions = rows["caption"][:]
        model, processor = build_small_model(captions)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
        accelerator, gather = Accelerator(), GlobalBatch()
        model.to(accelerator.device).train()

        def batch_of(pairs: PairDataset, first: int) -> dict:
            return tensors_of(pairs.collate([pairs[n % len(pairs)] for n in range(first, first + args.batch)]))

        def tensors_of(batch: Batch) -> dict:
            return batch.model_inputs(normalize_images(batch.images, processor))

        def on_disk_rows(name: str) -> PairDataset:
            cache = image_cache(rows, processor, Path(folder, name))
            return PairDataset(rows, processor, cache_bytes=0, cache=cache)

        def step(batch: dict) -> None:
            batch = {name: value.to(accelerator.device) for name, value in batch.items()}
            _, backward = forward_step(accelerator, model, batch, gather)
            backward()
            optimizer.step()
            optimizer.zero_grad()

        def one_round(turn: int) -> None:
            first = turn * args.batch
            numbers = [n % args.images for n in range(first, first + args.batch)]
            found["plain"].append(seconds_of(lambda: plain_loop(rows, captions, processor, numbers)))
            held, fresh = PairDataset(rows, processor), PairDataset(rows, processor)
            for name in ("loader", "cached"):
                found[name].append(seconds_of(lambda: batch_of(held, first)))
            ready = batch_of(held, first)
            found["step"].append(seconds_of(lambda: step(ready)))
            for name in ("loaded", "later"):
                found[name].append(seconds_of(lambda: step(batch_of(fresh, first))))
            alone, stepped = (on_disk_rows(f"{turn}-{n}") for n in range(2))
            for name in ("filling", "disk"):
                found[name].append(seconds_of(lambda: batch_of(alone, first)))
            for name in ("loaded, disk", "later, disk"):
                found[name].append(seconds_of(lambda: step(batch_of(stepped, first))))

        step(batch_of(PairDataset(rows, processor), 0))  # allocations
        for turn in range(args.rounds):
            one_round(turn)
        if args.waiting:
            waits(on_disk_rows("waiting"), args.batch, lambda batch: step(tensors_of(batch)))
    middle = {name: statistics.median(values) for name, values in found.items()}
    run = (middle["loaded, disk"] + 9 * middle["later, disk"]) / 10
    ratios = {
        "loader over the plain loop, images/s": middle["plain"] / middle["loader"],
        "from memory over the plain loop, images/s": middle["plain"] / middle["cached"],
        "from disk over the plain loop, images/s": middle["plain"] / middle["disk"],
        "step with loading over step in memory, first epoch": middle["loaded"] / middle["step"],
        "step with loading over step in memory, later epochs": middle["later"] / middle["step"],
        "the same, filling the file on disk": middle["loaded, disk"] / middle["step"],
        "the same, from disk": middle["later, disk"] / middle["step"],
        "the same, a run of 10 epochs": run / middle["step"],
    }
    print(f"{args.batch} images of {SIZE[0]} x {SIZE[1]} px, one thread; CPU seconds a batch: "
          + ", ".join(f"{name} {value:.3f}" for name, value in middle.items()))  # fmt: skip
    if torch.cuda.is_available():
        on_gpu(args.rounds)
    for name, value in ratios.items():
        print(f"{name:<55} {value:6.2f}x")
    return ratios


def waits(pairs: PairDataset, batch: int, step: Callable[[dict], None]) -> None:
    """Two epochs with one data worker, the first fills the file on disk: how much of them the step waited."""
    loader = DataLoader(pairs, batch, drop_last=True, collate_fn=pairs.collate, num_workers=1)
    for epoch in ("first", "later"):
        waited, began, found = 0.0, time.perf_counter(), iter(loader)
        while True:
            asked = time.perf_counter()
            given = next(found, None)
            waited += time.perf_counter() - asked
            if given is None:
                break
            step(given)
        print(f"one worker, {epoch} epoch: {waited / (time.perf_counter() - began):.3f} of the time waiting for data")


def on_gpu(rounds: int) -> None:
    """Images/s and peak memory of the ViT-B/16 step at bf16."""
    config, _ = configurations("vitb16")
    accelerator, gather = Accelerator(mixed_precision="bf16"), GlobalBatch()
    for compiled in (False, True):
        model = RogleModel(config).train()
        if compiled:
            model.vision_model.compile()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
        model, optimizer = accelerator.prepare(model, optimizer)
        for images, parts in ((64, 1), (256, 1), (1024, 8), (4096, 32)):
            given = {name: value.cuda() for name, value in random_batch(config, images, 4).items()}
            torch.cuda.reset_peak_memory_stats()
            times = []
            for _ in range(rounds + 2):
                torch.cuda.synchronize()
                began = time.perf_counter()
                _, backward = forward_step(accelerator, model, given, gather, parts)
                backward()
                optimizer.step()
                optimizer.zero_grad()
                torch.cuda.synchronize()
                times.append(time.perf_counter() - began)
            peak = torch.cuda.max_memory_allocated() / 2**30
            rate = images / statistics.median(times[2:])
            print(f"compile {compiled}, batch {images} in {parts} parts: {rate:.0f} images/s, peak {peak:.1f} GiB")


if __name__ == "__main__":
    main()
