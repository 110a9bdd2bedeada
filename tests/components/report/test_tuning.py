from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

from components.metadata import Output
from components.report.report_page import render
from tests.components.report.conftest import Material


def page_of(material: Material, folder: Path) -> str:
    artifacts = {**material.run.artifacts, "tuner_results": Output(str(folder))}
    return render(dataclasses.replace(material.run, artifacts=artifacts))


def test_a_report_lists_the_trials_with_the_best_first(material: Material, tmp_path: Path) -> None:
    rows = [
        {"trial_id": "02", "score": 1.5, "learning_rate": 0.00251234, "width": 1.25},
        {"trial_id": "00", "score": 2.25, "learning_rate": 0.1, "width": 1.0},
    ]
    (tmp_path / "tuner_results.json").write_text(json.dumps(rows), "utf-8")  # as TFX writes it
    page = page_of(material, tmp_path)
    assert '<a href="#tuning">' in page
    table = page[page.index("<caption>Trials</caption>") :]
    cells = re.findall(r"<t[hd](?: [^>]*)?>(.*?)</t[hd]>", table[: table.index("</table>")])
    assert cells == [
        "Trial", "Learning rate", "Width", "Perplexity",
        '3 <span class="better">✓ best</span>', "0.00251", "1.25", "1.5000",
        "1", "0.1", "1", "2.2500",
    ]  # fmt: skip


def test_trials_whose_file_is_gone_are_noted(material: Material, tmp_path: Path) -> None:
    file = tmp_path / "tuner_results.json"
    assert f"{file} cannot be read: No such file or directory." in page_of(material, tmp_path)


def test_a_report_without_tuning_does_not_mention_it(page: str) -> None:
    assert "uning</" not in page and 'href="#tuning"' not in page
