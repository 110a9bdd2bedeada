"""The registry of import formats, in the order of detection. To add a format, add a module and list it here."""

from __future__ import annotations

from data.importers import pairs, processed, raw, records, tfrecords

FORMATS = {module.FORMAT.name: module.FORMAT for module in (processed, raw, tfrecords, pairs, records)}
