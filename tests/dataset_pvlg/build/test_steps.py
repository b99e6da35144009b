"""What a source's rows follow from, for a build that goes on after a kill."""

import os

from tests.helpers.source_layouts import draw_person

from dataset_pvlg.build.steps import REPORT_FILE, Source, as_facts


def test_a_source_changes_with_its_images_and_tables_and_not_with_what_builds_leave(tmp_path):
    table = tmp_path / "people.TSV"
    table.write_text("image\ttext\na/0.jpg\tA man.\n")
    draw_person(tmp_path / "a" / "0.jpg", 0)
    source = Source("own", str(tmp_path))
    seen = [as_facts(source)]

    for folder in (".out.build", "out"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.jpg").write_bytes(b"x")
        (tmp_path / folder / REPORT_FILE).write_text("{}")
    assert as_facts(source) == seen[0]

    draw_person(tmp_path / "a" / "1.jpg", 1)
    seen.append(as_facts(source))
    os.utime(tmp_path / "a" / "0.jpg", ns=(0, 0))
    seen.append(as_facts(source))
    table.write_text("image\ttext\na/0.jpg\tA woman.\n")
    seen.append(as_facts(source))
    assert all(one != other for n, one in enumerate(seen) for other in seen[:n])

    elsewhere = Source("own", str(table), str(tmp_path / "a"))
    before = as_facts(elsewhere)
    draw_person(tmp_path / "a" / "2.jpg", 2)
    assert as_facts(elsewhere) != before
    assert "images" not in as_facts(Source("own", str(tmp_path / "nowhere")))
