"""benchmarks/quality/proposals.py: recall against overlaps calculated by hand."""

import json

import numpy as np
import pytest
from PIL import Image

from benchmarks.quality.proposals import annotated_samples, main, measure
from dataset_pvlg.proposals.base import Proposals


def test_recall_is_counted_by_label():
    boxes = np.array([[0, 0, 0.5, 0.5], [0.5, 0.5, 1, 1], [0, 0, 1, 1]], dtype=np.float32)
    true = np.array([[0, 0, 0.5, 0.25], [0.5, 0.5, 1, 1], [0.9, 0, 1, 0.1]])
    image = Image.new("RGB", (10, 20))
    result = measure(
        lambda image, texts: Proposals(boxes, ("a", "b", "c")), [(image, [], true, ["bag", "feet", "bag"])]
    )
    assert result["recall@0.5"] == pytest.approx({"all": 2 / 3, "bag": 0.5, "feet": 1.0})
    assert result["recall@0.7"] == pytest.approx({"all": 1 / 3, "bag": 0.0, "feet": 1.0})
    assert result["boxes"] == {"all": 3, "bag": 2, "feet": 1} and result["proposals"] == result["most proposals"] == 3
    with pytest.raises(ValueError, match="no image"):
        measure(lambda image, texts: Proposals(boxes, ("a", "b", "c")), [])


def test_a_folder_of_real_images_is_read(tmp_path, capsys):
    Image.new("RGB", (50, 100)).save(tmp_path / "a.png")
    rows = [
        {"file_path": "a.png", "width": 50, "height": 100, "sentences": ["A hat."], "regions": regions}
        for regions in ([{"label": "head", "bbox": [15, 3, 35, 24]}], [])
    ]
    (tmp_path / "annotations.json").write_text(json.dumps(rows))
    ((_, texts, boxes, labels),) = annotated_samples(tmp_path)
    assert (texts, boxes.tolist(), labels) == (["A hat."], [[0.3, 0.03, 0.7, 0.24]], ["head"])
    out = tmp_path / "result.json"
    main(["--count", "2", "--proposers", "templates,grid", "--pedestrians", str(tmp_path), "--out", str(out)])
    result = json.loads(out.read_text())
    assert result["manually placed boxes"]["templates"]["recall@0.5"] == {"all": 1.0, "head": 1.0}
    assert result["synthetic validation"]["grid"]["images"] == 2
    assert "| templates | 37 |" in capsys.readouterr().out


def test_the_default_meets_real_boxes(test_data):
    pytest.importorskip("skimage")
    from dataset_pvlg.proposals.proposers import load_proposer

    result = measure(load_proposer(), annotated_samples(test_data / "pedestrians"))
    assert result["boxes"]["all"] == 47
    assert result["recall@0.5"]["all"] >= 0.8 and result["most proposals"] <= 130 and result["cpu_ms"] <= 250
