# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""OME-TIFF in several files: is all of an image in the one file that is read?

OME may put the planes of one image (channels, focal planes) into several files, which name each other by UUID, or the
whole description into a file of its own (``.companion.ome``). One file of them is not the image.
"""

from __future__ import annotations

from collections.abc import Iterator
from xml.etree import ElementTree

__all__ = ["find_ome_fault"]

_ONE_FILE = "convert it to one OME-TIFF file of RGB, for example with bfconvert of Bio-Formats."


def find_ome_fault(xml: str) -> str:
    """Why a file with this OME description is not a whole image, or "".

    A file that was renamed still is: its UUID counts, not the name that the description has for it.

    Args:
        xml: the OME-XML in the description of its first page.
    """
    try:
        root = ElementTree.fromstring(xml)
    except ElementTree.ParseError:
        return ""  # no more than a text

    for element in root.iter():
        if _name_of(element) == "BinaryOnly":
            other = element.get("MetadataFile") or "another file"
            return f"its OME description is in {other}, so what its pixels are is not known; {_ONE_FILE}"

    uuid = root.get("UUID")
    for pixels in root.iter():
        if _name_of(pixels) != "Pixels":
            continue
        file_of = dict(_list_files(pixels))
        if len(file_of) > 1 and (uuid is None or uuid in file_of):
            return f"the planes of its image are in {len(file_of)} files ({', '.join(file_of.values())}); {_ONE_FILE}"
    return ""


def _list_files(pixels: ElementTree.Element) -> Iterator[tuple[str, str]]:
    """UUID and name of the file of each plane, as far as stated."""
    for element in pixels.iter():
        if _name_of(element) == "UUID" and element.text:
            uuid = element.text.strip()
            yield uuid, element.get("FileName") or uuid


def _name_of(element: ElementTree.Element) -> str:
    """Name of an element without its namespace."""
    return element.tag.rpartition("}")[2]
