# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""One file of an OME image of several files is not taken for the image; a renamed file is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from slide_files import picture, write_pyramid

from monai_jsma.slides import SlideError, inspect_slide, open_slide, read_image

PIXELS = picture(128, 192)
OME = '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" {uuid}>{content}</OME>'
IMAGE = """<Image ID="Image:{number}"><Pixels DimensionOrder="XYCZT" ID="Pixels:{number}" SizeC="{channels}" SizeT="1"
 SizeX="192" SizeY="128" SizeZ="1" Type="uint8" PhysicalSizeX="0.5" PhysicalSizeY="0.5">{planes}</Pixels></Image>"""
PLANE = '<TiffData FirstC="{channel}" IFD="0" PlaneCount="1"><UUID FileName="{name}">{uuid}</UUID></TiffData>'
FILES = {"urn:uuid:a": "a.ome.tif", "urn:uuid:b": "b.ome.tif", "urn:uuid:c": "c.ome.tif"}


def make_image(uuids: list[str], number: int = 0) -> str:
    """An image with one plane in each of the files."""
    planes = [PLANE.format(channel=i, name=FILES[uuid], uuid=uuid) for i, uuid in enumerate(uuids)]
    return IMAGE.format(number=number, channels=len(uuids), planes="".join(planes))


def write_ome(path: Path, content: str, *, uuid: str = "urn:uuid:a", pixels: np.ndarray = PIXELS) -> Path:
    attribute = f'UUID="{uuid}"' if uuid else ""
    description = OME.format(uuid=attribute, content=content)
    photometric = "rgb" if pixels.ndim == 3 else "minisblack"
    write_pyramid(path, [pixels], description=description, photometric=photometric)
    return path


@pytest.mark.parametrize("uuid", ["urn:uuid:a", "urn:uuid:c", ""])
def test_a_channel_in_a_file_of_its_own_is_not_the_image(tmp_path, uuid):
    path = write_ome(tmp_path / "x.ome.tif", make_image(list(FILES)), uuid=uuid, pixels=PIXELS[..., 0])
    message = r"x\.ome\.tif: the planes of its image are in 3 files \(a\.ome\.tif, b\.ome\.tif, c\.ome\.tif\); convert"
    for read in (inspect_slide, read_image):
        with pytest.raises(SlideError, match=message):
            read(path)


def test_a_file_whose_description_is_elsewhere(tmp_path):
    content = '<BinaryOnly MetadataFile="x.companion.ome" UUID="urn:uuid:a"/>'
    path = write_ome(tmp_path / "x.ome.tif", content)
    with pytest.raises(SlideError, match=r"x\.ome\.tif: its OME description is in x\.companion\.ome, so .* convert it"):
        inspect_slide(path)


@pytest.mark.parametrize("uuid", ["urn:uuid:a", "urn:uuid:b", ""])
def test_a_file_with_a_whole_image_is_read_under_any_name(tmp_path, uuid):
    path = write_ome(tmp_path / "renamed.ome.tif", make_image(["urn:uuid:a"]), uuid=uuid)
    info = inspect_slide(path)
    assert (info.mpp, info.mpp_source) == (0.5, "OME PhysicalSizeX")
    np.testing.assert_array_equal(open_slide(info).read(0, (0, 0), info.size), PIXELS)


def test_another_image_in_other_files_does_not_matter(tmp_path):
    content = make_image(["urn:uuid:a"]) + make_image(["urn:uuid:b", "urn:uuid:c"], number=1)
    path = write_ome(tmp_path / "a.ome.tif", content)
    assert inspect_slide(path).mpp == 0.5
