"""Region-to-Sentence Matching between epochs: when pairs are mined with the model in training, and what was found."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from datasets import Dataset

from dataset_pvlg.mining.mine_rows import fit_matching, mine_rows, with_regions
from modeling_rogle import RogleModel, RogleProcessor
from train.checkpoints import write_text

Regions = list[list[dict[str, Any]]]


class MiningRounds:
    """The training rows' regions, mined anew after some epochs, each round from the pairs of the one before.

    Each round is a file in the run's folder, so that a run that goes on in the middle of an epoch draws the same pairs.

    Args:
        folder: of the rounds, `epoch-N.json` each.
        first: epochs done before the first round; before it there are no pairs.
        every: epochs from one round to the next; 0: there is one.
        say: prints in one process.
    """

    def __init__(self, folder: Path, first: int, every: int, say: Callable[[str], None] = print):
        self.folder, self.first, self.every, self.say = folder, first, every, say
        self._held: tuple[int | None, Regions] = (None, [])

    def of_epoch(self, epoch: int) -> int | None:
        """The epochs done when the pairs of this one are mined; None where there are none yet."""
        if epoch < self.first:
            return None
        return self.first if not self.every else epoch - (epoch - self.first) % self.every

    def enter(
        self, epoch: int, accelerator: Accelerator, model: RogleModel, processor: RogleProcessor, rows: Dataset
    ) -> Regions:
        """The regions of an epoch that begins or is resumed, the same in every process.

        The main process mines, for rounding elsewhere could make other pairs; the others are told the regions.

        Args:
            model: as it is after that many epochs, or any when the round's file is there.
            rows: P-VLG rows.
        """
        round_ = self.of_epoch(epoch)
        if round_ is None:
            return [[] for _ in range(len(rows))]  # `in rows` would decode every image
        if round_ == self._held[0]:
            return self._held[1]
        told: list[Any] = [None]
        if accelerator.is_main_process:
            file = self.folder / f"epoch-{round_}.json"
            if not file.exists():
                was_training = model.training
                model.eval()
                last = self.folder / f"epoch-{round_ - self.every}.json"
                known = rows
                if self.every and last.exists():
                    known = with_regions(rows, json.loads(last.read_text(encoding="utf-8")))
                judge = fit_matching(model, processor, known)
                mined, counts = mine_rows(model, processor, rows, scorer=judge)
                model.train(was_training)
                self.folder.mkdir(parents=True, exist_ok=True)
                write_text(file, json.dumps(mined["regions"][:]))
                self.say(f"mined after {round_} epochs: " + ", ".join(f"{v} {k}" for k, v in counts.items()))
            told = [json.loads(file.read_text(encoding="utf-8"))]
        self._held = round_, broadcast_object_list(told)[0]
        return self._held[1]


__all__ = ["MiningRounds"]
