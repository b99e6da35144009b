"""Cost of loading images in training, against a step on a batch in memory and against a plain loading loop.

    python -m benchmarks.speed.train_throughput [--images N] [--batch N] [--rounds N] [--waiting]

The images are JPEG files of the size of a pedestrian data set, read as a training run reads them. All variants take
turns in one process. Read the ratios.

    loader          images/s of `PairDataset` (decoding at draft size, one resize, uint8) against a plain loop (PIL
                    open, convert, `CLIPImageProcessor`, tokenizer)
    cached          the same in the second epoch, from memory; `disk`: from the file of resized images; `filling`: the
                    first epoch, which writes that file
    step            CPU seconds of a training step with loading, against the same step on a batch in memory: in the
                    first and in later epochs, from memory and from disk. Also the mean over a run of 10 epochs
    waiting         with --waiting: share of the time that steps wait for a data worker, which train_log.jsonl has as
                    data_wait_share. It means little on a machine with other load

benchmarks.speed.step compares the step itself with plain CLIP. On a GPU, if there is one, also: images/s of the step in
bf16, with and without torch.compile, and peak memory of batches of up to 4,096 images with gradient caching.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from accelerate import Accelerator
from datasets import Dataset
from PIL import Image
from torch.utils.data import DataLoader

from benchmarks.common.random_models import configurations, random_batch
from dataset_pvlg.features import FEATURES
from dataset_pvlg.loading import load_rows
from modeling_rogle import RogleModel, RogleProcessor
from train.data.batch import Batch
from train.data.image_cache import image_cache
from train.data.pairs import PairDataset, normalize_images
from train.global_batch import GlobalBatch, forward_step
from train.small_model import build_small_model

SIZE = (256, 768)  # width and height of the files in pixels: larger than the model's input, as in UFine6926


def jpeg_rows(folder: Path, count: int) -> Dataset:
    """Synthetic rows whose images are enlarged and stored as JPEG files in a folder."""
    rows = load_rows("synthetic-tiny")[0]["train"]
    enlarged = []
    for number in range(count):
        row = rows[number % len(rows)]
        x, y = SIZE[0] / row["width"], SIZE[1] / row["height"]
        path = folder / f"{number}.jpg"
        row["image"].convert("RGB").resize(SIZE, Image.Resampling.BICUBIC).save(path, quality=90)
        boxes = [[b[0] * x, b[1] * y, b[2] * x, b[3] * y] for b in (region["bbox"] for region in row["regions"])]
        regions = [region | {"bbox": box} for region, box in zip(row["regions"], boxes, strict=True)]
        enlarged.append(
            row
            | {"image": {"path": str(path), "bytes": None}, "image_id": str(number), "regions": regions}
            | {"width": SIZE[0], "height": SIZE[1]}
        )
    return Dataset.from_list(enlarged, features=FEATURES)


def plain_loop(rows: Dataset, captions: Sequence[str], processor: RogleProcessor, numbers: Sequence[int]) -> None:
    """Loads rows as published training code does: open, convert, process, pad."""
    images = rows.select_columns("image")
    for number in numbers:
        image = images[number]["image"].convert("RGB")
        processor.image_processor(images=image, return_tensors="pt")
        processor.tokenizer(captions[number], padding="max_length", truncation=True, return_tensors="pt")


def cpu_seconds(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


class LoadingBenchmark:
    """Rows in JPEG files, a small model and its optimizer, and the calls that are timed.

    Args:
        folder: for the image files and the files of resized images.
        images: number of images.
        batch: images a step.
    """

    def __init__(self, folder: Path, images: int, batch: int):
        self.folder, self.images, self.batch = folder, images, batch
        self.rows = jpeg_rows(folder, images)
        self.captions = self.rows["caption"][:]
        self.model, self.processor = build_small_model(self.captions)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-5, fused=True)
        self.accelerator, self.gather = Accelerator(), GlobalBatch()
        self.model.to(self.accelerator.device).train()

    def load(self, pairs: PairDataset, first: int) -> dict[str, torch.Tensor]:
        """Model inputs of the rows from `first` on."""
        return self.inputs(pairs.collate([pairs[n % len(pairs)] for n in range(first, first + self.batch)]))

    def inputs(self, batch: Batch) -> dict[str, torch.Tensor]:
        return batch.model_inputs(normalize_images(batch.images, self.processor))

    def pairs_in_memory(self) -> PairDataset:
        return PairDataset(self.rows, self.processor)

    def pairs_on_disk(self, name: str) -> PairDataset:
        cache = image_cache(self.rows, self.processor, self.folder / name)
        return PairDataset(self.rows, self.processor, cache_bytes=0, cache=cache)

    def step(self, inputs: dict[str, torch.Tensor]) -> None:
        inputs = {name: value.to(self.accelerator.device) for name, value in inputs.items()}
        _, backward = forward_step(self.accelerator, self.model, inputs, self.gather)
        backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def run_round(self, number: int) -> dict[str, float]:
        """CPU seconds of each variant on one batch."""
        first = number * self.batch
        numbers = [n % self.images for n in range(first, first + self.batch)]
        seconds = {"plain": cpu_seconds(lambda: plain_loop(self.rows, self.captions, self.processor, numbers))}
        loaded, stepped = self.pairs_in_memory(), self.pairs_in_memory()
        for name in ("loader", "cached"):
            seconds[name] = cpu_seconds(lambda: self.load(loaded, first))
        inputs = self.load(loaded, first)
        seconds["step"] = cpu_seconds(lambda: self.step(inputs))
        for name in ("loaded", "later"):
            seconds[name] = cpu_seconds(lambda: self.step(self.load(stepped, first)))
        loaded, stepped = (self.pairs_on_disk(f"{number}-{n}") for n in range(2))
        for name in ("filling", "disk"):
            seconds[name] = cpu_seconds(lambda: self.load(loaded, first))
        for name in ("loaded, disk", "later, disk"):
            seconds[name] = cpu_seconds(lambda: self.step(self.load(stepped, first)))
        return seconds

    def print_waiting(self) -> None:
        """Prints the share of time that steps wait for one data worker, in two epochs.

        The first epoch writes the file of resized images.
        """
        pairs = self.pairs_on_disk("waiting")
        loader = DataLoader(pairs, self.batch, drop_last=True, collate_fn=pairs.collate, num_workers=1)
        for epoch in ("first", "later"):
            waited, started, batches = 0.0, time.perf_counter(), iter(loader)
            while True:
                requested = time.perf_counter()
                batch = next(batches, None)
                waited += time.perf_counter() - requested
                if batch is None:
                    break
                self.step(self.inputs(batch))
            share = waited / (time.perf_counter() - started)
            print(f"one worker, {epoch} epoch: {share:.3f} of the time waiting for data")


def ratios(seconds: dict[str, float]) -> dict[str, float]:
    """The figures of the table, from the CPU seconds of each variant."""
    run = (seconds["loaded, disk"] + 9 * seconds["later, disk"]) / 10
    return {
        "loader over the plain loop, images/s": seconds["plain"] / seconds["loader"],
        "from memory over the plain loop, images/s": seconds["plain"] / seconds["cached"],
        "from disk over the plain loop, images/s": seconds["plain"] / seconds["disk"],
        "step with loading over step in memory, first epoch": seconds["loaded"] / seconds["step"],
        "step with loading over step in memory, later epochs": seconds["later"] / seconds["step"],
        "the same, filling the file on disk": seconds["loaded, disk"] / seconds["step"],
        "the same, from disk": seconds["later, disk"] / seconds["step"],
        "the same, a run of 10 epochs": run / seconds["step"],
    }


def print_gpu(rounds: int) -> None:
    """Prints images/s and peak memory of the ViT-B/16 step in bf16."""
    config, _ = configurations("vitb16")
    accelerator, gather = Accelerator(mixed_precision="bf16"), GlobalBatch()
    for compiled in (False, True):
        model = RogleModel(config).train()
        if compiled:
            model.vision_model.compile()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
        model, optimizer = accelerator.prepare(model, optimizer)
        for images, parts in ((64, 1), (256, 1), (1024, 8), (4096, 32)):
            inputs = {name: value.cuda() for name, value in random_batch(config, images, 4).items()}
            torch.cuda.reset_peak_memory_stats()
            times = []
            for _ in range(rounds + 2):
                torch.cuda.synchronize()
                started = time.perf_counter()
                _, backward = forward_step(accelerator, model, inputs, gather, parts)
                backward()
                optimizer.step()
                optimizer.zero_grad()
                torch.cuda.synchronize()
                times.append(time.perf_counter() - started)
            peak = torch.cuda.max_memory_allocated() / 2**30
            rate = images / statistics.median(times[2:])
            print(f"compile {compiled}, batch {images} in {parts} parts: {rate:.0f} images/s, peak {peak:.1f} GiB")


def main(argv: Sequence[str] | None = None) -> dict[str, float]:
    """Measures, prints a table, and returns the ratios."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.speed.train_throughput",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--images", type=int, default=96, help="images of the data set (default: 96)")
    parser.add_argument("--batch", type=int, default=32, help="images a step (default: 32)")
    parser.add_argument("--rounds", type=int, default=3, help="timed rounds (default: 3)")
    parser.add_argument(
        "--waiting", action="store_true", help="also measure the time that steps wait for a data worker (default: off)"
    )
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        benchmark = LoadingBenchmark(Path(folder), args.images, args.batch)
        benchmark.step(benchmark.load(benchmark.pairs_in_memory(), 0))  # allocates memory
        rounds = [benchmark.run_round(number) for number in range(args.rounds)]
        if args.waiting:
            benchmark.print_waiting()
    seconds = {name: statistics.median(each[name] for each in rounds) for name in rounds[0]}
    figures = ", ".join(f"{name} {value:.3f}" for name, value in seconds.items())
    print(f"{args.batch} images of {SIZE[0]} x {SIZE[1]} px, one thread; CPU seconds a batch: {figures}")
    if torch.cuda.is_available():
        print_gpu(args.rounds)
    results = ratios(seconds)
    for name, value in results.items():
        print(f"{name:<55} {value:6.2f}x")
    return results


if __name__ == "__main__":
    main()
