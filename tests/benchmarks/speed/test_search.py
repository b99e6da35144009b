"""benchmarks/speed/search.py at its smallest size: every part runs, and exact search has a recall of 1."""

import importlib.util

import numpy as np
import pytest
from safetensors.numpy import save_file

from benchmarks.speed import search, search_rows


def test_every_part_gives_its_rows(tmp_path, capsys, monkeypatch):
    parts = ["exact", "rerank", *(["faiss"] if importlib.util.find_spec("faiss") else [])]
    table = search.main(["--size", "tiny", "--parts", ",".join(parts), "--queries", "6", "--work", str(tmp_path)])
    rows = {row["part"]: row for row in table}
    assert rows["exact"]["recall"] == 1.0 and rows["exact"]["disk"] > 3000 * 512 * 4
    for name in parts[2:]:
        assert all(rows[f"{name}{filtered}"]["recall"] >= 0.95 for filtered in ("", ", 1 % filter", ", 50 % filter"))
    assert {"exact, 1 % filter", "exact + late interaction over 200"} <= set(rows)
    out = capsys.readouterr().out
    assert "3,000 x 512, 150 clusters, noise 1.0, seed 0, 1 threads, wall clock" in out
    assert len([line for line in out.splitlines() if line.startswith("| ")]) == len(table) + 1
    assert not list(tmp_path.iterdir())


def test_a_build_is_compared_with_a_plain_loop(tmp_path):
    table = search.main("--parts build --model-size tiny --images 12 --batch 4".split() + ["--work", str(tmp_path)])
    assert [row["part"] for row in table[:2]] == ["plain loop over CLIPModel, fp32", "Gallery.build, fp32"]
    assert all(row["images/s"] > 0 for row in table[:2]) and table[2]["p50"] > 0


def test_embeddings_of_a_trained_model_are_repeated_with_noise(tmp_path, capsys):
    draw = np.random.default_rng(0)
    images, texts = (draw.normal(size=(n, 16)).astype(np.float32) for n in (40, 30))
    images, texts = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (images, texts))
    save_file({"image_embeds": images, "long.embeds": texts}, tmp_path / "split.safetensors")
    words = ["--size", "tiny", "--queries", "6", "--noise", "0.2", "--embeddings", str(tmp_path / "split.safetensors")]
    rows = {row["part"]: row for row in search.main([*words, "--parts", "exact"])}
    assert rows["exact"]["recall"] == 1.0 and "3,000 x 16, images of" in capsys.readouterr().out
    block = next(search_rows.trained(str(tmp_path / "split.safetensors"), 100, 0.2, 0)[0])
    np.testing.assert_allclose((block[40:80] * images).sum(1), 1.04**-0.5, atol=0.05)
    save_file({"image": images}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="image_embeds"):
        search_rows.trained(str(tmp_path / "other.safetensors"), 100, 0.2, 0)


def test_embeddings_depend_on_the_seed_alone():
    first, second, other = (next(search_rows.clustered(50, 5, 1.0, seed, 1)) for seed in (0, 0, 1))
    assert (first == second).all() and (first != other).any()


@pytest.mark.parametrize("words", [["--parts", "speed"], ["--queries", "0"]])
def test_bad_arguments_are_refused(words, capsys):
    with pytest.raises(SystemExit):
        search.main(words)
    assert words[1] in capsys.readouterr().err
