"""Queries of text and image, and late interaction by its definition."""

import numpy as np
import pytest
from PIL import Image

from modeling_rogle.inference.errors import GalleryError
from modeling_rogle.inference.image_encoder import TorchEncoder
from modeling_rogle.late_interaction import late_interaction, ranks
from modeling_rogle.search.query import encode_query
from tests.helpers.index_files import unit_rows

TEXT = "A man wears a red jacket. His shoes are white."


@pytest.fixture
def encoder(tiny_model, tiny_processor) -> TorchEncoder:
    return TorchEncoder(tiny_model, tiny_processor)


def test_text_image_and_the_mean_of_both(encoder, tmp_path):
    Image.new("RGB", (20, 50), "red").save(tmp_path / "q.png")
    text = encode_query(encoder, TEXT)
    image = encode_query(encoder, image=tmp_path / "q.png")
    both = encode_query(encoder, TEXT, Image.open(tmp_path / "q.png"))
    assert [TEXT[start:end] for _, start, end in text.sentences] == [one for one, _, _ in text.sentences]
    assert text.sentence_embeds.shape == (2, 32) and image.sentence_embeds.shape == (0, 32)
    mean = text.embed + image.embed
    np.testing.assert_allclose(both.embed, mean / np.linalg.norm(mean), atol=1e-6)
    np.testing.assert_array_equal(both.sentence_embeds, text.sentence_embeds)


def test_one_sentence_that_names_several_parts_is_met_part_by_part(encoder):
    query = encode_query(encoder, "A man wears a red jacket, black pants and white shoes.")
    said = [one for one, _, _ in query.sentences]
    assert said == ["A man wears a red jacket", "black pants", "and white shoes."]
    assert len(query.sentence_embeds) == 3


def test_images_that_cannot_be_read_are_named(encoder, tmp_path):
    (tmp_path / "q.png").write_text("x")
    with pytest.raises(GalleryError, match=r"query image .*q.png: not an image that Pillow can read"):
        encode_query(encoder, image=tmp_path / "q.png")
    with pytest.raises(GalleryError, match="query: no words"):
        encode_query(encoder, " .")


def test_only_the_first_sentences_of_a_flood_are_read(encoder):
    flood = "Red. " * 30_000
    with pytest.warns(UserWarning) as caught:
        query = encode_query(encoder, flood)
    assert "query: 30000 sentences, at most 64 are read; the rest is ignored" in str(caught[0].message)
    assert len(query.sentences) == len(query.sentence_embeds) == 64 and len(query.text) < 400


def test_a_large_query_image_is_no_warning(encoder, tmp_path, recwarn, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 800)  # Pillow warns above, and refuses above twice
    Image.new("RGB", (20, 50), "red").save(tmp_path / "q.png")
    encode_query(encoder, image=tmp_path / "q.png")
    assert not [item for item in recwarn if issubclass(item.category, Image.DecompressionBombWarning)]


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_late_interaction_and_what_each_sentence_moved(weight):
    n, count, regions = 30, 3, unit_rows(30, 4, 8)
    global_scores, said = unit_rows(n, 8, seed=1)[:, 0], unit_rows(count, 8, seed=2)

    def score(i: int, without: int | None) -> float:
        best = [max(said[s] @ region for region in regions[i]) for s in range(count) if s != without]
        return (1 - weight) * global_scores[i] + weight * np.mean(best)

    met = late_interaction(global_scores, np.einsum("sd,ntd->nst", said, regions), weight)
    whole = np.array([score(i, None) for i in range(n)])
    np.testing.assert_allclose(met.score, whole, atol=1e-6)
    for sentence in range(count):
        rest = np.array([score(i, sentence) for i in range(n)])
        expected = [(rest > rest[i]).sum() - (whole > whole[i]).sum() for i in range(n)]
        assert met.moved[:, sentence].tolist() == expected
    assert (met.moved == 0).all() == (weight == 0.0)


def test_ranks_of_equal_scores_are_in_order():
    assert ranks(np.array([0.1, 0.5, 0.5, 0.9])).tolist() == [4, 2, 3, 1]
