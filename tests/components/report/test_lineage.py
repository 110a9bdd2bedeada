from __future__ import annotations

import re

from components.metadata import ADDRESS, Output
from components.report.lineage import BOX_HEIGHT, BOX_WIDTH, HEIGHT, TITLES, WIDTH, draw
from components.report.reported_run import ReportedRun
from components.report.sections import descent

EVERYTHING = dict.fromkeys(TITLES, "made")


def test_missing_artifacts_are_drawn_as_absent() -> None:
    notes = {"data": "TFRecords", "examples": "artifact 1"}
    drawing = draw(notes)
    assert {box.title: box.note for box in drawing.boxes if box.present} == notes
    assert {box.note for box in drawing.boxes if not box.present} == {"none"}
    assert [arrow.present for arrow in drawing.arrows].count(True) == 1  # from the data to the examples


def test_boxes_are_inside_the_drawing_and_do_not_overlap() -> None:
    boxes = draw(EVERYTHING).boxes
    assert len(boxes) == len(TITLES)
    for i, box in enumerate(boxes):
        assert 0 <= box.x <= WIDTH - BOX_WIDTH and BOX_HEIGHT / 2 <= box.y <= HEIGHT - BOX_HEIGHT / 2
        for other in boxes[:i]:
            assert abs(box.x - other.x) >= BOX_WIDTH or abs(box.y - other.y) >= BOX_HEIGHT


def test_every_arrow_connects_two_boxes() -> None:
    drawing = draw(EVERYTHING)

    def touches(x: float, y: float) -> bool:
        return any(
            box.x <= x <= box.x + BOX_WIDTH
            and abs(y - box.y) <= BOX_HEIGHT / 2
            and (x in (box.x, box.x + BOX_WIDTH) or abs(y - box.y) == BOX_HEIGHT / 2)
            for box in drawing.boxes
        )

    for arrow in drawing.arrows:
        ((x, y),) = [(float(x), float(y)) for x, y in re.findall(r"M([\d.]+),([\d.]+)", arrow.path)]
        assert touches(x, y), arrow.path
        for direction, value in re.findall(r"([HV])([\d.]+)", arrow.path):
            x, y = (float(value), y) if direction == "H" else (x, float(value))
        assert touches(x, y), arrow.path


def test_an_artifact_is_listed_with_its_permanent_address() -> None:
    copied = Output("/s3/formulas/runs/model", 3, {ADDRESS: "s3://formulas/runs/model"})
    here = Output("/home/workspace/pipeline_root/evaluation", 4)
    _, rows = descent(ReportedRun("im2latex", artifacts={"model": copied, "evaluation": here}))
    assert {(number, address) for _, number, address in rows} == {
        ("3", "s3://formulas/runs/model"),
        ("4", "/home/workspace/pipeline_root/evaluation"),
    }
