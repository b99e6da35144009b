"""Region-to-Sentence Matching during training: when pairs are mined with the current model, and the mined regions."""

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
    """The training rows' regions, mined again after some epochs. Each round starts from the pairs of the last one.

    Each round is a file in the run's folder, so that a run resumed within an epoch uses the same pairs.

    Args:
        folder: folder of the rounds, one file `epoch-N.json` each.
        first: epochs before the first round; until then there are no pairs.
        every: epochs from one round to the next; 0 mines once.
        log (defaults to `print`): reports each round, in one process.
    """

    def __init__(self, folder: Path, first: int, every: int, log: Callable[[str], None] = print):
        self.folder, self.first, self.every, self.log = folder, first, every, log
        self._last: tuple[int | None, Regions] = (None, [])

    def round_of(self, epoch: int) -> int | None:
        """The round that an epoch's pairs come from, as the number of epochs before it; None before the first."""
        if epoch < self.first:
            return None
        return self.first if not self.every else epoch - (epoch - self.first) % self.every

    def regions_of(
        self, epoch: int, accelerator: Accelerator, model: RogleModel, processor: RogleProcessor, rows: Dataset
    ) -> Regions:
        """The regions of an epoch that begins or is resumed, equal in every process.

        Only the main process mines, because rounding in another process could give other pairs. It sends the regions
        to the others.

        Args:
            epoch: epochs done.
            accelerator: every process must call the method.
            model: model after that many epochs; not used if the round's file exists.
            processor: its processor.
            rows: P-VLG rows.

        Returns:
            A list of regions for each row.
        """
        number = self.round_of(epoch)
        if number is None:
            return [[] for _ in range(len(rows))]  # `in rows` would decode every image
        if number == self._last[0]:
            return self._last[1]
        regions: list[Any] = [None]
        if accelerator.is_main_process:
            file = self.folder / f"epoch-{number}.json"
            if not file.exists():
                self._mine(number, file, model, processor, rows)
            regions = [json.loads(file.read_text(encoding="utf-8"))]
        self._last = number, broadcast_object_list(regions)[0]
        return self._last[1]

    def _mine(self, number: int, file: Path, model: RogleModel, processor: RogleProcessor, rows: Dataset) -> None:
        was_training = model.training
        model.eval()
        previous = self.folder / f"epoch-{number - self.every}.json"
        start_rows = rows
        if self.every and previous.exists():
            start_rows = with_regions(rows, json.loads(previous.read_text(encoding="utf-8")))
        scorer = fit_matching(model, processor, start_rows)
        mined, counts = mine_rows(model, processor, rows, scorer=scorer)
        model.train(was_training)
        self.folder.mkdir(parents=True, exist_ok=True)
        write_text(file, json.dumps(mined["regions"][:]))
        self.log(f"mined after {number} epochs: " + ", ".join(f"{count} {name}" for name, count in counts.items()))


__all__ = ["MiningRounds"]
