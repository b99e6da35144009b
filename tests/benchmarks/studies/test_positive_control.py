"""The positive control: its geometry, and that a stopped run continues to the same figures."""

import json

import numpy as np
import pytest
import torch

from benchmarks.studies import positive_control as control


def test_cells_of_a_box():
    centres = control.cell_centres()
    boxes = torch.tensor([[0.0, 0.0, 1.0, 1.0], [0.5, 0.5, 0.501, 0.501]])
    inside = control.cells_inside(boxes, centres)
    assert inside[0].sum() == len(centres) / 4 and inside[1].sum() == 1
    assert (centres[inside[1]] - 0.5).abs().max() < 0.03


def test_loss_of_boxes():
    a = torch.tensor([[0.0, 0.0, 0.5, 0.5], [0.0, 0.0, 0.5, 0.5]])
    b = torch.tensor([[0.0, 0.0, 0.5, 0.5], [0.5, 0.5, 1.0, 1.0]])
    np.testing.assert_allclose(control.giou_loss(a, b), [0.0, 1.5], atol=1e-6)


@pytest.mark.slow
def test_a_stopped_run_continues_to_the_same_figures(tmp_path, capsys):
    flags = ["--dataset", "synthetic-tiny", "--batch-size", "12"]
    assert control.main(["--out", str(tmp_path / "whole"), "--epochs", "2", *flags]) == 0
    figures = json.loads((tmp_path / "whole" / "control.json").read_text())
    assert 0 <= figures["recall"] <= 100 and figures["chance R@1"] > 0

    replace, calls = control.os.replace, []

    def stop_at_the_second(*paths):
        calls.append(paths)
        if len(calls) == 2:
            raise KeyboardInterrupt
        replace(*paths)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(control.os, "replace", stop_at_the_second)  # killed before the checkpoint of the second epoch
        with pytest.raises(KeyboardInterrupt):
            control.main(["--out", str(tmp_path / "again"), "--epochs", "2", *flags])
    assert control.main(["--out", str(tmp_path / "again"), "--epochs", "2", *flags]) == 0
    assert json.loads((tmp_path / "again" / "control.json").read_text()) == figures
    capsys.readouterr()
