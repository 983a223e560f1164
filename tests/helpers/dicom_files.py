# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Synthetic DICOM slides for the tests: each level in a file of its own, or cut into several."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pydicom import dcmwrite
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import PYDICOM_IMPLEMENTATION_UID, JPEGBaseline8Bit, VLWholeSlideMicroscopyImageStorage, generate_uid

__all__ = ["TILE", "decode_level", "list_places", "new_series", "write_dicom", "write_dicom_slide"]

TILE = 64
VOLUME = ("ORIGINAL", "PRIMARY", "VOLUME", "NONE")
_LAYOUT = {
    "Modality": "SM",
    "DimensionOrganizationType": "TILED_FULL",
    "Rows": TILE,
    "Columns": TILE,
    "SamplesPerPixel": 3,
    "PhotometricInterpretation": "YBR_FULL_422",
    "PlanarConfiguration": 0,
    "BitsAllocated": 8,
    "BitsStored": 8,
    "HighBit": 7,
    "PixelRepresentation": 0,
    "TotalPixelMatrixFocalPlanes": 1,
    "NumberOfOpticalPaths": 1,
}


def new_series(**attributes: Any) -> dict[str, Any]:
    """What all files of one slide state, with other attributes of theirs."""
    uids = {name: generate_uid() for name in ("SeriesInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID")}
    return {**uids, "PatientID": "P1", **attributes}


def write_dicom_slide(
    folder: Path, levels: Sequence[np.ndarray], *, stem: str = "level", **attributes: Any
) -> list[Path]:
    """Write a slide, ``{stem}0.dcm`` with the finest level, 0.5 um per pixel. Returns the files, finest first."""
    series = new_series(**attributes)
    paths = []
    for number, pixels in enumerate(levels):
        mpp = 0.5 * levels[0].shape[0] / pixels.shape[0]
        paths.append(write_dicom(folder / f"{stem}{number}.dcm", pixels, series, mpp=mpp))
    return paths


def write_dicom(
    path: Path,
    pixels: np.ndarray,
    series: dict[str, Any],
    *,
    mpp: float = 0.5,
    kind: Sequence[str] = VOLUME,
    frames: slice = slice(None),
    places: Sequence[tuple[int, int]] = (),
    has_table: bool = True,
    **attributes: Any,
) -> Path:
    """Write one level, or the frames of it that are asked for, with attributes in place of the usual ones.

    Args:
        places: first row and column of each frame, from 0; the level is then sparse.
        has_table: whether to write the table of the frames' offsets.
    """
    if places:
        attributes["DimensionOrganizationType"] = "TILED_SPARSE"
        attributes["PerFrameFunctionalGroupsSequence"] = [_place_frame(*place) for place in places]
    tiles = _encode_tiles(pixels)[frames]
    file = Dataset()
    file.file_meta = FileMetaDataset()
    file.SOPClassUID = VLWholeSlideMicroscopyImageStorage
    file.SOPInstanceUID = generate_uid()
    attributes = {**_LAYOUT, "NumberOfFrames": len(tiles), **series, **attributes}
    for name, value in attributes.items():
        setattr(file, name, value)
    file.file_meta.MediaStorageSOPClassUID = file.SOPClassUID
    file.file_meta.MediaStorageSOPInstanceUID = file.SOPInstanceUID
    file.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    file.file_meta.ImplementationClassUID = PYDICOM_IMPLEMENTATION_UID
    file.ImageType = list(kind)
    file.TotalPixelMatrixRows, file.TotalPixelMatrixColumns = pixels.shape[:2]
    _add_sequences(file, mpp, kind)
    file.PixelData = encapsulate(tiles, has_bot=has_table)
    file["PixelData"].is_undefined_length = True
    path.parent.mkdir(parents=True, exist_ok=True)
    dcmwrite(path, file, enforce_file_format=True)
    return path


def list_places(size: tuple[int, int]) -> list[tuple[int, int]]:
    """First row and column of each frame of a level, row by row."""
    height, width = size
    return [(row, col) for row in range(0, height, TILE) for col in range(0, width, TILE)]


def _place_frame(row: int, col: int) -> Dataset:
    position = Dataset()
    position.RowPositionInTotalImagePixelMatrix = row + 1
    position.ColumnPositionInTotalImagePixelMatrix = col + 1
    for axis in "XYZ":
        setattr(position, f"{axis}OffsetInSlideCoordinateSystem", 0)
    groups = Dataset()
    groups.PlanePositionSlideSequence = [position]
    return groups


def decode_level(pixels: np.ndarray) -> np.ndarray:
    """The pixels of a level as its JPEG tiles hold them."""
    tiles = iter(_encode_tiles(pixels))
    decoded = np.empty_like(pixels)
    for row in range(0, pixels.shape[0], TILE):
        for col in range(0, pixels.shape[1], TILE):
            decoded[row : row + TILE, col : col + TILE] = np.asarray(Image.open(io.BytesIO(next(tiles))))
    return decoded


def _encode_tiles(pixels: np.ndarray) -> list[bytes]:
    """JPEG streams of the tiles, row by row; height and width are multiples of a tile's."""
    tiles = []
    for row in range(0, pixels.shape[0], TILE):
        for col in range(0, pixels.shape[1], TILE):
            stream = io.BytesIO()
            tile = Image.fromarray(pixels[row : row + TILE, col : col + TILE])
            tile.save(stream, "JPEG", quality=90, subsampling=0)
            tiles.append(stream.getvalue())
    return tiles


def _add_sequences(file: Dataset, mpp: float, kind: Sequence[str]) -> None:
    measures = Dataset()
    measures.PixelSpacing = [mpp / 1000, mpp / 1000]
    measures.SliceThickness = 0.001
    frame = Dataset()
    frame.FrameType = list(kind)
    shared = Dataset()
    shared.PixelMeasuresSequence = [measures]
    shared.WholeSlideMicroscopyImageFrameTypeSequence = [frame]
    file.SharedFunctionalGroupsSequence = [shared]
    optics = Dataset()
    optics.OpticalPathIdentifier = "0"
    optics.ObjectiveLensPower = 20
    file.OpticalPathSequence = [optics]
