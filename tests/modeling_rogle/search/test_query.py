"""Queries of a text, an image or both, and their embeddings."""

import numpy as np
import pytest
from PIL import Image

from modeling_rogle.inference.errors import GalleryError
from modeling_rogle.inference.image_encoder import TorchEncoder
from modeling_rogle.search.query import encode_query

TEXT = "A man wears a red jacket. His shoes are white."


@pytest.fixture
def encoder(tiny_model, tiny_processor) -> TorchEncoder:
    return TorchEncoder(tiny_model, tiny_processor)


def test_text_image_and_the_mean_of_both(encoder, tmp_path):
    Image.new("RGB", (20, 50), "red").save(tmp_path / "q.png")
    text = encode_query(encoder, TEXT)
    image = encode_query(encoder, image=tmp_path / "q.png")
    both = encode_query(encoder, TEXT, Image.open(tmp_path / "q.png"))
    assert [TEXT[start:end] for _, start, end in text.sentences] == [sentence for sentence, _, _ in text.sentences]
    assert text.sentence_embeds.shape == (2, 32) and image.sentence_embeds.shape == (0, 32)
    mean = text.embed + image.embed
    np.testing.assert_allclose(both.embed, mean / np.linalg.norm(mean), atol=1e-6)
    np.testing.assert_array_equal(both.sentence_embeds, text.sentence_embeds)


def test_one_sentence_that_names_several_parts_is_split_into_clauses(encoder):
    query = encode_query(encoder, "A man wears a red jacket, black pants and white shoes.")
    assert [sentence for sentence, _, _ in query.sentences] == [
        "A man wears a red jacket",
        "black pants",
        "and white shoes.",
    ]
    assert len(query.sentence_embeds) == 3


def test_images_that_cannot_be_read_are_named(encoder, tmp_path):
    (tmp_path / "q.png").write_text("x")
    with pytest.raises(GalleryError, match=r"query image .*q.png: not an image that Pillow can read"):
        encode_query(encoder, image=tmp_path / "q.png")
    with pytest.raises(GalleryError, match="query: no words"):
        encode_query(encoder, " .")


def test_only_the_first_64_sentences_are_read(encoder):
    text = "Red. " * 30_000
    with pytest.warns(UserWarning) as caught:
        query = encode_query(encoder, text)
    assert "query: 30000 clauses, at most 64 are read; the rest is ignored" in str(caught[0].message)
    assert len(query.sentences) == len(query.sentence_embeds) == 64 and len(query.text) < 400


def test_a_large_query_image_gives_no_warning(encoder, tmp_path, recwarn, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 800)  # Pillow warns above, and refuses above twice
    Image.new("RGB", (20, 50), "red").save(tmp_path / "q.png")
    encode_query(encoder, image=tmp_path / "q.png")
    assert not [item for item in recwarn if issubclass(item.category, Image.DecompressionBombWarning)]


def test_a_query_is_cleaned_and_bytes_that_are_not_text_are_counted(encoder):
    with pytest.warns(UserWarning, match="query: 1 bytes are not text in UTF-8 and were removed"):
        query = encode_query(encoder, "A man\u2019s \udce9red\u200b jacket. &quot;Nike&quot; shoes.")
    plain = encode_query(encoder, query.text)
    assert query.text == 'A man\'s red jacket. "Nike" shoes.' and query.sentences == plain.sentences
    np.testing.assert_array_equal(query.sentence_embeds, plain.sentence_embeds)
    with pytest.raises(GalleryError, match="no words in it"), pytest.warns(UserWarning, match="2 bytes"):
        encode_query(encoder, "\ud83d \udce9")
