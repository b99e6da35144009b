import json
from pathlib import Path

from PIL import Image

from benchmarks.speed.step_figure import main


def test_a_figure_is_drawn_of_what_was_measured_with_or_without_memory(tmp_path: Path) -> None:
    measured = {"seconds": {"clip, padded": [2.0, 2.2, 9.0], "rogle, full": [1.0, 1.2, 1.1]}, "memory_bytes": {}}
    (tmp_path / "step.json").write_text(json.dumps(measured))
    main([str(tmp_path / "step.json"), "--out", str(tmp_path / "one.png")])
    measured["memory_bytes"] = {"clip, padded": 4 << 30, "rogle, full": 3 << 30}
    (tmp_path / "step.json").write_text(json.dumps(measured))
    main([str(tmp_path / "step.json"), "--out", str(tmp_path / "two.png")])
    with Image.open(tmp_path / "one.png") as one, Image.open(tmp_path / "two.png") as two:
        assert two.width > 1.5 * one.width
        blue = sum(n for n, (r, g, b) in two.convert("RGB").getcolors(1 << 20) if b > r + 60)
        assert blue > 1000  # ours stand out
