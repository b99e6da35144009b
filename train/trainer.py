"""The training loop: steps, epochs, validation, checkpoints and the best model."""

import json
import math
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from accelerate.utils import broadcast_object_list, gather_object
from tqdm.auto import tqdm

from modeling_rogle.evaluation.protocols import both_protocols
from modeling_rogle.evaluation.split_embeddings import encode_split
from train.checkpoints import save_folder, write_text
from train.data.batch import Batch
from train.data.pairs import normalize_images
from train.global_batch import GlobalBatch, forward_step
from train.guards import BadImages, BadSteps, StopSignal, batches
from train.lora import merged
from train.run_setup import Run
from train.sharding import as_published, is_sharded, reshard

SELECTED_BY = "global/long/R@1"  # the validation score that chooses the best epoch
MAX_LOG_SCALE = math.log(100)  # CLIP's limit of the logit scale


class Trainer:
    """Trains a run to its last epoch.

    Args:
        run: data, model and optimizer, see [`train.run_setup.set_up`]. `run.progress` is updated in place.
    """

    def __init__(self, run: Run):
        self.run, self.recipe, self.accelerator, self.progress = run, run.recipe, run.accelerator, run.progress
        accelerator = run.accelerator
        self.out = Path(run.recipe.out)
        self.parts = min(run.recipe.micro_batches, run.sampler.batch_size)
        self.gather = GlobalBatch(accelerator.num_processes, accelerator.process_index)
        self.bad_steps = BadSteps(
            self.out / "bad_steps.json", self.progress, run.recipe.max_bad_steps, accelerator.is_main_process
        )
        suffix = "" if accelerator.is_main_process else f"-{accelerator.process_index}"
        self.bad_images = BadImages(self.out / f"bad_images{suffix}.json", run.recipe.max_bad_images, print)

    def fit(self) -> None:
        """Trains all remaining epochs; validates and writes a checkpoint after each."""
        self._print_summary()
        bar = tqdm(
            total=self.run.steps, initial=self.progress.step, disable=not self.accelerator.is_main_process, desc="train"
        )
        with bar, StopSignal(self.gather.request_stop):
            for epoch in range(self.progress.epoch, self.recipe.epochs):
                self._begin_epoch(epoch)
                for batch in self._timed(batches(self.run.loader, self._enter_epoch, self.progress.position, print)):
                    loss = self.train_step(batch)
                    bar.update()
                    bar.set_postfix(loss=f"{loss:.3f}", best=f"{max(self.progress.best, 0):.1f}")
                    self._save_within_epoch()
                self._end_epoch(epoch)

    def train_step(self, batch: Batch) -> float:
        """One step of the optimizer; skipped if the loss or the gradient is not finite.

        Args:
            batch: this process's part of the global batch, on the CPU.

        Returns:
            The loss of the global batch.
        """
        run, progress = self.run, self.progress
        self.bad_images.report(batch.faults)
        self.bad_images.report_metadata(batch.metadata_faults)
        batch.to(self.accelerator.device)
        run.reliability.weigh(batch, self.accelerator.device)
        inputs = batch.model_inputs(normalize_images(batch.images, run.processor))
        output, backward = forward_step(self.accelerator, run.prepared, inputs, self.gather, self.parts)
        loss = output.loss.item()

        def image_ids() -> list[str]:
            return gather_object(batch.image_ids)

        finite = self.bad_steps.check("loss", loss, image_ids)
        if finite:
            run.reliability.observe(output.loss_inputs, batch, self.gather)
            backward()
            norm = self.accelerator.clip_grad_norm_(run.prepared.parameters(), self.recipe.max_grad_norm)
            # The gradient scaler of fp16 expects infinite gradients and skips such steps itself.
            finite = self.accelerator.scaler is not None or self.bad_steps.check("gradient", float(norm), image_ids)
        if finite:
            run.optimizer.step()
            self._clamp_scales()
            progress.finite += 1
            for name, value in output.items():
                if name.startswith("loss") and name != "loss_inputs":
                    progress.sums[name] = progress.sums.get(name, 0.0) + value.item()
        run.optimizer.zero_grad()
        run.schedule.step()
        progress.step += 1
        progress.position += 1
        return loss

    def validate(self) -> dict[str, float]:
        """Scores on the validation split in percent, equal in all processes. The main process encodes.

        With sharded weights all processes encode, because each forward needs all shards.
        """
        run = self.run
        run.prepared.eval()
        scores = None
        if self.accelerator.is_main_process or is_sharded(self.accelerator):
            validation = encode_split(
                run.model, run.processor, run.splits["validation"], progress=False, split="validation"
            )
            scores = both_protocols(validation)
            reshard(run.model)
        return broadcast_object_list([scores])[0]

    def save(self) -> None:
        """Writes a checkpoint to resume from; every process must call it."""
        self.run.state.save(self.run.checkpoints, self.progress)

    def save_best(self) -> None:
        """Writes the model to `best/`: with merged adapters if it has any, and the adapters alone beside it."""
        run = self.run
        weights = None if run.adapted else self.accelerator.get_state_dict(run.prepared)
        if not self.accelerator.is_main_process:
            return

        def write(folder: Path) -> None:
            if run.adapted:
                merged(run.adapted).save_pretrained(folder)
                run.adapted.save_pretrained(folder / "adapter")
            else:
                run.model.save_pretrained(folder, state_dict=as_published(weights))
            run.processor.save_pretrained(folder)

        save_folder(self.out / "best", write)

    def _print_summary(self) -> None:
        run, log = self.run, self.accelerator.print
        if run.processor.truncated_captions:
            limit = run.processor.tokenizer.model_max_length
            log(f"{run.processor.truncated_captions} captions over {limit} tokens were cut at the end of a sentence")
        trained = sum(p.numel() for p in run.model.parameters() if p.requires_grad)
        size = sum(p.numel() for p in run.model.parameters())
        log(
            f"{len(run.pairs)} images, {run.steps} steps of {run.sampler.global_batch} images in "
            f"{self.accelerator.num_processes} processes, {trained:,} of {size:,} parameters, {self.accelerator.device}"
        )

    def _begin_epoch(self, epoch: int) -> None:
        run = self.run
        if run.rounds:
            regions = run.rounds.regions_of(epoch, self.accelerator, run.model, run.processor, run.train_rows)
            run.pairs.set_regions(regions, number_by_sentence=True)
            run.reliability.pairs_changed()
        run.reliability.begin_epoch(self.accelerator.print)
        run.prepared.train()

    def _enter_epoch(self, step: int) -> None:
        """Sets sampler and data to the current epoch, from a step on."""
        self.run.sampler.set_epoch(self.progress.epoch, step)
        self.run.pairs.set_epoch(self.progress.epoch)

    @torch.no_grad()
    def _clamp_scales(self) -> None:
        """Keeps the temperatures within CLIP's limit; beyond it they have no gradient and could not return."""
        for scale in (self.run.model.logit_scale, self.run.model.region_head.logit_scale):
            scale.clamp_(max=MAX_LOG_SCALE)

    def _save_within_epoch(self) -> None:
        """Writes the checkpoint that `--save-steps` or SIGTERM requests.

        Raises:
            SystemExit: after SIGTERM.
        """
        run, progress = self.run, self.progress
        due = self.recipe.save_steps and progress.step % self.recipe.save_steps == 0
        if self.gather.stop or (due and progress.position < len(run.sampler)):  # the last one follows validation
            self.save()
        if self.gather.stop:
            self.accelerator.print(
                f"SIGTERM: saved after step {progress.step} of {run.steps}; continue with --resume auto"
            )
            raise SystemExit(128 + signal.SIGTERM)

    def _end_epoch(self, epoch: int) -> None:
        """Validates, keeps the model if it is the best, logs, and writes a checkpoint."""
        run, progress = self.run, self.progress
        reliability = run.reliability.finish_epoch()
        began = time.perf_counter()
        reshard(run.model)
        scores = self.validate()
        if scores[SELECTED_BY] > progress.best:
            progress.best, progress.best_epoch = scores[SELECTED_BY], epoch + 1
            self.save_best()
        progress.seconds += time.perf_counter() - began
        finite, steps_seconds = max(progress.finite, 1), max(progress.steps_seconds, 1e-9)
        entry = {
            "epoch": epoch + 1,
            "step": progress.step,
            "seconds": round(progress.seconds, 1),
            "cpu_seconds": round(progress.cpu_seconds, 1),
            **reliability,
            "data_wait_share": round(progress.waited / steps_seconds, 4),
            **{name: total / finite for name, total in progress.sums.items()},
            **{f"validation/{name}": value for name, value in scores.items()},
        }
        progress.history.append(entry)
        progress.epoch, progress.position, progress.sums, progress.finite = epoch + 1, 0, {}, 0
        progress.waited = progress.steps_seconds = 0.0
        self.save()
        self.accelerator.log(entry, step=progress.step)
        if self.accelerator.is_main_process:
            lines = "".join(json.dumps(entry) + "\n" for entry in progress.history)
            write_text(self.out / "train_log.jsonl", lines)

    def _timed(self, iterator: Iterator[Batch]) -> Iterator[Batch]:
        """Adds the time of the steps to the progress, and separately the time spent waiting for data."""
        progress = self.progress
        while True:
            began, cpu_began = time.perf_counter(), time.process_time()
            batch = next(iterator, None)
            if batch is None:
                return
            progress.waited += time.perf_counter() - began
            yield batch
            seconds = time.perf_counter() - began
            progress.seconds += seconds
            progress.steps_seconds += seconds
            progress.cpu_seconds += time.process_time() - cpu_began  # training steps only


__all__ = ["Trainer"]
