"""The facts that the rows of a source depend on, for a build that resumes after a kill."""

import os

from dataset_pvlg.build.steps import REPORT_FILE, Source, source_facts
from tests.helpers.source_layouts import draw_person


def test_facts_change_with_images_and_tables_and_not_with_the_output_of_builds(tmp_path):
    table = tmp_path / "people.TSV"
    table.write_text("image\ttext\na/0.jpg\tA man.\n")
    draw_person(tmp_path / "a" / "0.jpg", 0)
    source = Source("own", str(tmp_path))
    facts = [source_facts(source)]

    for folder in (".out.build", "out"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.jpg").write_bytes(b"x")
        (tmp_path / folder / REPORT_FILE).write_text("{}")
    assert source_facts(source) == facts[0]

    draw_person(tmp_path / "a" / "1.jpg", 1)
    facts.append(source_facts(source))
    os.utime(tmp_path / "a" / "0.jpg", ns=(0, 0))
    facts.append(source_facts(source))
    table.write_text("image\ttext\na/0.jpg\tA woman.\n")
    facts.append(source_facts(source))
    assert all(each != other for n, each in enumerate(facts) for other in facts[:n])

    elsewhere = Source("own", str(table), str(tmp_path / "a"))
    before = source_facts(elsewhere)
    draw_person(tmp_path / "a" / "2.jpg", 2)
    assert source_facts(elsewhere) != before
    assert "images" not in source_facts(Source("own", str(tmp_path / "nowhere")))
