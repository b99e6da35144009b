"""benchmarks/speed/ranking.py at its smallest size: every part in a process, the tables, and the metrics."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.speed import ranking as benchmark
from modeling_rogle.metrics.retrieval import global_scores


def test_every_part_is_measured_and_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "ranking.json"
    results = benchmark.main(["--size", "tiny", "--rounds", "2", "--out", str(out)])
    assert json.loads(out.read_text()) == results
    assert [path.name for path in tmp_path.iterdir()] == ["ranking.json"]
    assert len(results["engine"]) == len(results["matmul"]) == 2 and len(results["growth"]) == 3
    for run in (*results["engine"], results["reference"], results["tall"], *results["growth"]):
        assert run["cpu_s"] > 0 and 0 <= run["added_bytes"] < 2**28
    assert results["disagreement"] < 1e-4
    printed = capsys.readouterr()
    assert "| reference / engine, CPU time |" in printed.out and "| 300 x 1,500 (5.00 of the work) |" in printed.out
    assert printed.err.count("CPU s") == 2 * 2 + 3 + 2


def test_the_reference_computes_the_metrics_whatever_its_rows() -> None:
    query, query_ids = benchmark.make_embeddings("query", 90, 6, seed=3)
    gallery, gallery_ids = benchmark.make_embeddings("gallery", 70, 6, seed=3)
    expected = global_scores(query, query_ids, gallery, gallery_ids)
    for rows in (90, 7):
        scores = benchmark.full_argsort(query, query_ids, gallery, gallery_ids, rows)
        assert scores == pytest.approx({name: expected[name] for name in benchmark.METRICS}, abs=1e-4)


def test_embeddings_are_unit_vectors_of_the_same_people() -> None:
    query, query_ids = benchmark.make_embeddings("query", 400, 20, seed=3)
    again, _ = benchmark.make_embeddings("query", 400, 20, seed=3)
    gallery, gallery_ids = benchmark.make_embeddings("gallery", 200, 20, seed=3)
    assert np.linalg.norm(query, axis=1) == pytest.approx(1, abs=1e-5) and (query == again).all()
    same = query_ids[:, None] == gallery_ids[None, :]
    similarity = query @ gallery.T
    assert similarity[same].mean() > similarity[~same].mean() + 0.05


def test_ratios_are_of_medians_and_of_the_whole_reference() -> None:
    runs = [{"cpu_s": seconds, "added_bytes": 100} for seconds in (3.0, 4.0, 8.0)]
    bare = [{"cpu_s": seconds, "added_bytes": 10} for seconds in (2.0, 4.0, 4.0)]
    reference = {"cpu_s": 40.0, "added_bytes": 2000, "rows": 25}
    scores = benchmark.ratios({"engine": runs, "matmul": bare, "reference": reference, "n_query": 100})
    assert list(scores.values()) == [10, 1.5, 80]


def test_a_number_below_one_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        benchmark.main(["--rounds", "0"])
    assert "--rounds must be at least 1, not 0" in capsys.readouterr().err
