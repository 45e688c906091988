"""Rows: readers for every input format, quarantine, sections, splits, leakage.

Light to import: pyarrow, datasets, Pillow, numpy and the near-duplicate libraries are imported where they are used.
"""

from vlm_pipeline.examples.example import Example, ImageRef, Source, from_row, text_of, to_row
from vlm_pipeline.examples.formats import FORMATS
from vlm_pipeline.examples.images import ImageLimits
from vlm_pipeline.examples.leakage import Leak, find_leakage, leakage_blocks
from vlm_pipeline.examples.quarantine import Quarantined
from vlm_pipeline.examples.raw import (
    RawSection,
    SectionDigest,
    read_quarantine,
    read_raw,
    section_hash,
    write_quarantine,
    write_raw,
)
from vlm_pipeline.examples.reader import Detection, detect_format, read_examples
from vlm_pipeline.examples.representation import representation
from vlm_pipeline.examples.sections import assign_sections
from vlm_pipeline.examples.splits import assign_split, assign_splits, declared_split, group_of

__all__ = [
    "FORMATS",
    "Detection",
    "Example",
    "ImageLimits",
    "ImageRef",
    "Leak",
    "Quarantined",
    "RawSection",
    "SectionDigest",
    "Source",
    "assign_sections",
    "assign_split",
    "assign_splits",
    "declared_split",
    "detect_format",
    "find_leakage",
    "from_row",
    "group_of",
    "leakage_blocks",
    "read_examples",
    "read_quarantine",
    "read_raw",
    "representation",
    "section_hash",
    "text_of",
    "to_row",
    "write_quarantine",
    "write_raw",
]
