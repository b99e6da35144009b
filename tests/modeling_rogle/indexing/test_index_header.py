"""An index records how images and texts were prepared; later runs and searches read it from there."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from modeling_rogle.cli.main import main
from modeling_rogle.index.manifest import read_manifest
from modeling_rogle.inference.errors import GalleryError
from modeling_rogle.inference.loading import load_model
from modeling_rogle.inference.preprocessing import PERSON_SEARCH, Preprocessing
from modeling_rogle.search.gallery import Gallery
from tests.helpers.clip_folders import write_small_clip
from tests.helpers.image_files import QUERY, make_images


@pytest.fixture(scope="module")
def clip(tmp_path_factory, tiny_config, tiny_processor) -> Path:
    return write_small_clip(tmp_path_factory.mktemp("clip") / "clip", tiny_config, tiny_processor)


@pytest.fixture
def images(tmp_path) -> Path:
    return make_images(tmp_path / "images", 4)


def rogle(capsys, *words: object) -> tuple[int, str, str]:
    capsys.readouterr()
    code = main([str(word) for word in words])
    return code, *capsys.readouterr()


def test_plain_clip_keeps_its_size_and_the_index_says_so(clip, images, tmp_path, capsys):
    out = tmp_path / "index"
    code, _, err = rogle(capsys, "index", images, "--model", clip, "--out", out)
    assert (code, err) == (0, f"{clip}: images padded to 64 x 64 px, texts of up to 64 tokens\n")
    header = read_manifest(out)
    assert header["preprocessing"] == {"image_size": [64, 64], "max_tokens": 64, "fit": "pad"}
    assert header["template_labels"] == ["whole person"]  # no regions are stored
    code, table, err = rogle(capsys, "search", QUERY, "--index", out, "--json")
    assert (code, err) == (0, "")
    found = json.loads(table)
    assert not found["trained_regions"]
    assert {(item["label"], item["box"]) for row in found["results"] for item in row["sentences"]} == {("", None)}
    # An image as a query is padded as the indexed images were.
    assert Gallery.open(out).search(image=images / "02.png", top_k=1)[0].score == pytest.approx(1, abs=1e-5)
    _, table, _ = rogle(capsys, "search", QUERY, "--index", out)
    assert "region of" not in table.replace("best region of each sentence from crops", "")
    assert "no trained regions" in table
    code, _, err = rogle(capsys, "search", QUERY, "--index", out, "--save-map", tmp_path / "map.png")
    assert (code, err) == (2, "rogle search: heat map: this model has no trained regions\n")


def test_later_runs_read_the_settings_and_other_settings_replace_the_index(clip, images, tmp_path, capsys):
    out, person = tmp_path / "index", ("--fit", "squeeze", "--image-size", "384x128", "--max-tokens", "248")
    index = ("index", images, "--model", clip, "--out", out)
    _, said, err = rogle(capsys, *index, *person)
    assert err == f"{clip}: images resized without their aspect ratio to 384 x 128 px, texts of up to 248 tokens\n"
    assert Preprocessing.from_manifest(read_manifest(out)) == PERSON_SEARCH
    make_images(images / "b", 2)
    assert rogle(capsys, "index", images / "b", *index[2:], "--append")[2] == err
    assert "0 new, 6 unchanged" in rogle(capsys, *index)[1]
    code, _, err = rogle(capsys, "index", images / "b", *index[2:], "--append", "--fit", "crop")
    assert code == 2 and "images fitted by 'squeeze', not by 'crop'" in err and len(err.splitlines()) == 2
    assert "; 0 skipped" in rogle(capsys, *index, "--fit", "crop")[1]
    assert Preprocessing.from_manifest(read_manifest(out)) == Preprocessing((384, 128), 248, "crop")
    with pytest.raises(GalleryError, match="its images were fitted by 'crop', those of this encoder by 'squeeze'"):
        Gallery.open(out, *load_model(clip, PERSON_SEARCH))


def test_an_index_of_format_2_keeps_the_shape_of_person_search(clip, images, tmp_path, capsys):
    out = tmp_path / "index"
    Gallery.build(images, *load_model(clip, PERSON_SEARCH), out, progress=False)
    header = read_manifest(out) | {"version": 2}
    del header["preprocessing"], header["id"]
    (out / "index.json").write_text(json.dumps(header))
    assert len(Gallery.open(out).search(QUERY)) == 4
    code, said, err = rogle(capsys, "index", images, "--model", clip, "--out", out)
    assert code == 0 and "0 new, 4 unchanged" in said and "384 x 128 px" in err
    assert Preprocessing.from_manifest(read_manifest(out)) == PERSON_SEARCH


def test_a_rogle_checkpoint_keeps_its_own(tiny_checkpoint, images, tmp_path, capsys):
    index = ("index", images, "--model", tiny_checkpoint, "--out", tmp_path / "index")
    assert rogle(capsys, *index)[2] == ""
    assert read_manifest(tmp_path / "index")["preprocessing"] == {
        "image_size": [32, 16],
        "max_tokens": 64,
        "fit": "squeeze",
    }
    for option in (("--fit", "pad"), ("--image-size", "384x128"), ("--max-tokens", "248")):
        code, _, err = rogle(capsys, *index, *option)
        assert code == 2 and err.endswith("a Rogle checkpoint keeps its own image size, text length and fit\n")
    with pytest.raises(SystemExit):
        main([*map(str, index), "--image-size", "384"])
    assert "argument --image-size: not HEIGHTxWIDTH in pixels, such as 384x128: '384'" in capsys.readouterr().err


def test_crops_explain_a_model_without_trained_regions(clip, images, tmp_path, capsys):
    out = tmp_path / "index"
    rogle(capsys, "index", images, "--model", clip, "--out", out)
    code, said, err = rogle(capsys, "search", QUERY, "--index", out, "--top-k", 3, "--explain", "crops", "--json")
    assert code == 0 and err.startswith("explained 3 results with 33 crops in ")
    plain = json.loads(rogle(capsys, "search", QUERY, "--index", out, "--top-k", 3, "--json")[1])["results"]
    encoder = Gallery.open(out).encoder
    for match, without in zip(json.loads(said)["results"], plain, strict=True):
        assert (match["path"], match["score"], match["rank"]) == (without["path"], without["score"], without["rank"])
        for sentence, before in zip(match["sentences"], without["sentences"], strict=True):
            assert sentence["label"] and sentence["score"] >= before["score"] - 1e-6  # the whole image is a crop too
            if sentence["box"] is not None:
                x, y, width, height = map(int, sentence["box"])
                crop = Image.open(match["file"]).crop((x, y, x + width, y + height))
                cosine = encoder.encode_texts([sentence["sentence"]]) @ encoder.encode_images([crop])[0].T
                assert sentence["score"] == pytest.approx(float(cosine[0, 0]), abs=1e-5)
    gallery = Gallery.open(out)
    assert gallery.explain(gallery.search(image=images / "00.png")) == 0
    (images / "00.png").unlink()
    matches = gallery.search(QUERY, top_k=4)
    assert gallery.explain(matches) == 33  # the deleted image keeps no region
    assert [match.path for match in matches if not match.sentences[0].label] == ["00.png"]


def test_an_index_with_regions_of_an_untrained_model_shows_none(clip, images, tmp_path):
    model, processor = load_model(clip)
    model.config.local_weight = 0.5  # fitted, so regions are stored and scored
    gallery = Gallery.build(images, model, processor, tmp_path / "index", progress=False)
    assert len(gallery.header["template_labels"]) == 11
    scored, plain = (gallery.search(QUERY, local_weight=weight) for weight in (0.5, 0.0))
    assert {match.score for match in scored} != {match.score for match in plain}
    assert {item.label for match in scored for item in match.sentences} == {""}
    for match in plain:
        whole = gallery.encoder.encode_texts([QUERY]) @ gallery.encode_gallery()[gallery.paths.index(match.path)]
        assert match.score == pytest.approx(float(np.asarray(whole)[0]), abs=1e-5)
