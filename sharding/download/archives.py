"""The published archives of data sets: URLs, sizes and MD5s."""

from __future__ import annotations

from dataclasses import dataclass

_FLOWERS = "https://www.robots.ox.ac.uk/~vgg/data/flowers/102/"
_CUB = "https://data.caltech.edu/records/65de6-vp158"
_CELEBA = "http://mmlab.ie.cuhk.edu.hk/projects/CelebA.html"
_CELEBA_FILE = "https://drive.usercontent.google.com/download?export=download&confirm=t&id="


@dataclass(frozen=True)
class Archive:
    """One published file."""

    name: str
    """File name in the download folder."""
    url: str
    size_bytes: int
    md5: str
    page: str
    """Web page with a link to the file."""
    holds: str | None = None
    """Folder to unpack from a .tgz or .zip; None for a file that is used as it is."""


ARCHIVES = {
    # CelebA is on Google Drive, which often sends a web page in place of a file in demand.
    "celeba": (
        Archive(
            "list_eval_partition.txt",
            _CELEBA_FILE + "0B7EVK8r0v71pY0NSMzRuSXJEVkk",
            2_836_386,
            "d32c9cbf5e040fd4025c592c306e6668",
            _CELEBA,
        ),
        Archive(
            "img_align_celeba.zip",
            _CELEBA_FILE + "0B7EVK8r0v71pZjFTYXZWM3FlRnM",
            1_443_490_838,
            "00d2c5bc6d35e252742224ab0c1e8fcb",
            _CELEBA,
            holds="img_align_celeba",
        ),
    ),
    "cub": (
        Archive(
            "CUB_200_2011.tgz",
            f"{_CUB}/files/CUB_200_2011.tgz?download=1",
            1_150_585_339,
            "97eceeb196236b17998738112f37df78",
            _CUB,
            holds="CUB_200_2011",
        ),
    ),
    "flowers": (
        Archive("setid.mat", f"{_FLOWERS}setid.mat", 14_989, "a5357ecc9cb78c4bef273ce3793fc85c", _FLOWERS),
        Archive("imagelabels.mat", f"{_FLOWERS}imagelabels.mat", 502, "e0620be6f572b9609742df49c70aed4d", _FLOWERS),
        Archive(
            "102flowers.tgz",
            f"{_FLOWERS}102flowers.tgz",
            344_862_509,
            "52808999861908f626f3c1f4e79d11fa",
            _FLOWERS,
            holds="jpg",
        ),
    ),
}
"""Source name -> its files; sizes and MD5s as published."""
