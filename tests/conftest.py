from __future__ import annotations

import shutil
import signal
from collections.abc import Iterator
from typing import TYPE_CHECKING

import hypothesis
import pytest

if TYPE_CHECKING:
    from tests.browser import Browser

# Folders and files with the slowest tests, slowest first.
SLOWEST = ("end_to_end", "trainer_module", "test_kubeflow.py", "test_beam_runners.py", "test_flink_cluster.py")

# The duration of an example depends on the load of the machine.
hypothesis.settings.register_profile("unhurried", deadline=None)
hypothesis.settings.load_profile("unhurried")


def pytest_configure() -> None:
    # A process that a shell starts in the background ignores Ctrl-C, and so would all its children.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)  # before `-m` looks at the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sorts the slowest tests to the front, so that no slow test runs alone on one core at the end."""
    items.sort(key=lambda item: [name not in item.path.parts for name in SLOWEST])
    for item in items:
        if "end_to_end" in item.path.parts or "browser" in getattr(item, "fixturenames", ()):
            item.add_marker("integration")


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """One Chromium for all tests of pages in a process."""
    if not (shutil.which("chromium") and shutil.which("chromedriver")):
        pytest.skip("needs a browser: Debian's packages chromium and chromium-driver")
    from tests.browser import Browser

    started = Browser(tmp_path_factory.mktemp("profile"))
    yield started
    started.driver.quit()
