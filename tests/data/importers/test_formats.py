from __future__ import annotations

import pkgutil
from importlib import import_module

from data import importers
from data.importers.formats import FORMATS


def test_every_module_with_a_format_is_listed_by_its_name() -> None:
    modules = [import_module(f"data.importers.{module.name}") for module in pkgutil.iter_modules(importers.__path__)]
    described = {module.FORMAT.name for module in modules if hasattr(module, "FORMAT")}
    assert described == set(FORMATS) == {"processed", "raw", "tfrecords", "pairs", "records"}
    assert all(form.name == name and form.help and form.looks_like for name, form in FORMATS.items())
