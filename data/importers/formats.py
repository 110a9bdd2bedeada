"""The formats that can be imported, in the order in which they are tried. A new one is another module."""

from __future__ import annotations

from data.importers import processed, raw, records, tfrecords

FORMATS = {module.FORMAT.name: module.FORMAT for module in (processed, raw, tfrecords, records)}
