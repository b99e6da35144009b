"""benchmarks/speed/encode.py at its smallest size: real encodings, tables, and variants with equal embeddings."""

import json
import statistics
from pathlib import Path

import pytest
import torch

from benchmarks.speed import encode


def test_tables_of_every_way(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    out = tmp_path / "encode.json"
    command = ["--size", "tiny", "--images", "2", "--batches", "1", "--rounds", "1", "--no-memory", "--packing"]
    seconds = encode.main([*command, "--out", str(out)])
    assert list(seconds) == ["images", "texts, short", "texts, long"]
    assert all(len(values) == 1 and min(values) > 0 for ways in seconds.values() for values in ways.values())
    printed = capsys.readouterr().out
    lines = printed.splitlines()
    assert lines[0] == "`python -m benchmarks.speed.encode " + " ".join([*command, "--out", str(out)]) + "`"
    for what, ways in seconds.items():
        assert all(f"| {what} | {way} | " in printed for way in ways)
    assert printed.count("| packed by runs | ") == printed.count("| packed, dense mask | ") == 3
    written = json.loads(out.read_text())
    assert written["seconds"] == seconds and written["memory_bytes"] == {}
    assert [row["bar"] for row in written["bars"]] == [bar for *_, bar in encode.TARGETS]
    assert lines[-1].startswith(written["machine"])


def test_every_way_gives_the_same_embeddings():
    work, counts = encode.prepare("tiny", 3, 2)
    with torch.no_grad():
        for what in ("texts, short", "texts, long"):
            # The models have different weights, so the embeddings are compared within a model.
            padded, longest = work[what]["clip, padded"](), work[what]["clip, longest"]()
            assert padded.shape == (counts[what], 32)
            torch.testing.assert_close(padded, longest, atol=1e-5, rtol=0)
        assert work["images"]["rogle"]().shape == work["images"]["clip"]().shape == (3, 32)
        assert work["images"]["rogle, bf16"]().dtype == torch.float32
    for ways in encode.packing_work("tiny", 2).values():
        expected, *others = [way() for way in ways.values()]
        for embeds in others:
            torch.testing.assert_close(embeds, expected, atol=1e-5, rtol=0)


def test_lengths_are_those_of_the_captions():
    lengths = sorted(encode.draw_lengths(encode.SHORT, 20_000, 248))
    assert abs(statistics.mean(lengths) - 29.0) < 1
    assert [lengths[int(share * 20_000)] for share in (0.05, 0.5, 0.95)] == pytest.approx([20, 26, 47], abs=1)
    assert lengths[-1] <= 115 and sum(length > 77 for length in lengths) < 400
    long = encode.draw_lengths(encode.LONG, 2000, 248)
    assert min(long) >= 85 and max(long) <= 155
    assert max(encode.draw_lengths(encode.LONG, 100, 100)) == 100


def test_ratios_are_of_rates():
    seconds = {"images": {"clip": [2.0, 4.0, 6.0], "rogle": [1.0, 2.0, 6.0]}}
    last = encode.table(seconds, {"images": 8}, {"images: rogle": 2**20}).splitlines()[-1]
    assert last == "| images | rogle | 4.00 | 2.00 (1.00 to 2.00) | 1 MiB |"


@pytest.mark.parametrize(("fast", "verdict"), [(True, "missed"), (False, "not fast on this processor")])
def test_bfloat16_is_asked_of_a_processor_that_has_it(fast: bool, verdict: str):
    seconds = {
        "images": {"clip": [1.0], "rogle": [1.0], "clip, bf16": [0.9], "rogle, bf16": [0.9]},
        "texts, short": {"clip, padded": [7.0], "clip, longest": [1.3], "rogle": [1.0]},
        "texts, long": {"clip, padded": [1.4], "clip, longest": [1.1], "rogle": [1.0]},
    }
    rows = encode.check_targets(seconds, fast)
    assert [row["holds"] for row in rows] == [True, False if fast else None, True, True, True]
    assert f"| images: rogle, bf16 / clip | 1.11 | 2.20 | {verdict} |" in encode.targets_markdown(rows)


def test_memory_of_one_way_is_measured_alone(capsys: pytest.CaptureFixture[str]):
    assert encode.main(["--size", "tiny", "--images", "1", "--memory-of", "texts, long: rogle"]) == {}
    assert int(capsys.readouterr().out) >= 0
    work, _ = encode.prepare("tiny", 1, 1, only=("images", "rogle, bf16"))
    with torch.no_grad():
        work["images"]["rogle, bf16"]()
    assert [way.args[0] is None for way in work["images"].values()] == [True, True, True, False]


def test_a_number_below_one_is_refused(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        encode.main(["--images", "0"])
    assert "--images must be at least 1, not 0" in capsys.readouterr().err
