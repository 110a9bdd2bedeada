from __future__ import annotations

import re

from data.repository import REPOSITORY
from im2latex.serving.web_page import files


def colours(style: str) -> list[dict[str, str]]:
    """The variables of the light and of the dark theme."""
    return [dict(re.findall(r"(--[a-z-]+): ([^;]+);", block)) for block in re.findall(r":root \{([^}]*)\}", style)]


def test_the_page_has_the_colours_of_the_report_and_those_that_it_uses() -> None:
    style = files()["/page.css"].content.decode()
    report = (REPOSITORY / "components" / "report" / "report.css").read_text("utf-8")
    assert len(colours(style)) == 2
    for own, of_report in zip(colours(style), colours(report), strict=True):
        assert own.items() <= of_report.items()
        assert set(re.findall(r"var\((--[a-z-]+)\)", style)) == set(own)


def test_every_file_of_the_page_exists() -> None:
    served = files()
    named = re.findall(r'(?:href|src)="([^"#:]+)"', served["/"].content.decode())
    fonts = re.findall(r"url\((fonts/[^)]+\.woff2)\)", served["/katex/katex.min.css"].content.decode())
    assert named and fonts
    assert {f"/{name}" for name in (*named, *(f"katex/{font}" for font in fonts))} <= set(served)
