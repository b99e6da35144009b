import pytest

from dataset_pvlg.curation.origins import origin


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("Market/1488_c3s3_071419_00.jpg.jpg", ("market1501", "1488")),
        ("bounding_box_test/1488_c1s1_000451_03.jpg", ("market1501", "1488")),
        ("0000_c1s1_000151_01.jpg", None),
        ("-1_c1s1_000401_03.jpg", None),
        ("train_query/p3737_s4701.jpg", ("cuhk_sysu", "3737")),
        ("p3737_s4702.jpg", ("cuhk_sysu", "3737")),
        ("CUHK01/0258001.png", ("cuhk01", "0258")),
        ("0258001.png", None),
        ("CUHK03/12_1.jpg", ("cuhk03", "12")),
        ("cam_a/001_45.bmp", ("viper", "001")),
        ("cam_b/001_0.bmp", ("viper", "001")),
        ("test/0627/0627_010_05_0303afternoon_1591_0.jpg", ("msmt17", "test/0627")),
        ("mask_test_v2/0627/0627_010_05_0303afternoon_1591_0_ex.jpg", ("msmt17", "test/0627")),
        ("MSMT17_V1/train/0627/0627_010_05_0303morning_1591_0.jpg", ("msmt17", "train/0627")),
        ("0627_010_05_0303afternoon_1591_0.jpg", None),
        ("0000_c14_0031.jpg", None),
        ("images/7446.jpg", None),
        ("", None),
    ],
)
def test_file_names_give_the_person_of_the_older_set(path, expected):
    assert origin(path, "cuhk_pedes") == expected


@pytest.mark.parametrize("path", ["p12_s3.jpg", "train_query/p12_s3.jpg", "cam_a/001_2.jpg", "CUHK03/12_1.jpg"])
@pytest.mark.parametrize("source", ["own", "ufine", None])
def test_common_names_give_nothing_outside_cuhk_pedes(path, source):
    assert origin(path, source) is None
    assert origin(path, "cuhk_pedes") is not None
    assert origin("0002_c1s1_000451_03.jpg", source) == ("market1501", "0002")
