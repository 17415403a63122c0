"""The paper's numbers (arXiv 2009.03173, tables 1 to 3) and its data and schedule."""

from __future__ import annotations

from typing import NamedTuple


class Figure(NamedTuple):
    """The paper's result of one model on one task."""

    psnr_db: float
    ssim: float | None = None
    """As the released code computes it; see irae/metrics.py."""


TITLES = {
    1: "Denoising, PSNR in dB (the paper's table 1)",
    2: "JPEG artefacts, PSNR in dB and SSIM (the paper's table 2)",
    3: "Inpainting a box of half the sides, PSNR in dB (the paper's table 3)",
}
MODELS = {
    1: ("dncnn", "ffdnet", "unet", "irae"),
    2: ("arcnn", "dncnn", "unet", "irae"),
    3: ("contextual-attention", "shift-net", "coherent-semantic-attention", "irae"),
}
"""Columns of each table, in the paper's order."""
NOT_BUILT = MODELS[3][:3]
"""Models that are not implemented here; the paper's numbers are shown for them."""
LABELS = {
    1: ("noise15", "noise25", "noise50", "noise-blind"),
    2: ("jpeg10", "jpeg20", "jpeg30", "jpeg40"),
    3: ("inpaint-box",),
}
"""Rows of each table; in table 1, of each data set."""
DATASETS = {1: ("celeba", "cub", "flowers"), 2: ("celeba",), 3: ("celeba-hq",)}
"""Sources of the data. The paper names none for table 2."""
TRAIN_IMAGES = {"celeba": 162_770, "cub": 5_994, "flowers": 6_149}
TEST_IMAGES = {"celeba": 19_962, "cub": 5_794, "flowers": 2_040}
"""Sizes of the official splits; Flowers as the released code splits it."""
IMAGE_SIZE = {"celeba": 64, "cub": 128, "flowers": 128, "celeba-hq": 256}
TABLE_3_IMAGE_SIZE = 256
BATCH, INPAINT_BATCH, INPAINT_EPOCHS, INPAINT_LR = 100, 18, 200, 1e-4
"""Recipe of the paper and, for inpainting, of the released code."""

_TABLE_1 = {
    "celeba": (
        (31.4597, 31.8551, 31.7719, 33.0812),
        (29.4340, 28.9438, 30.5915, 31.0795),
        (26.7126, 25.5980, 26.4775, 28.0887),
        (30.3496, 30.8492, 30.8807, 31.6158),
    ),
    "cub": (
        (30.0825, 31.1383, 31.9578, 33.0805),
        (28.4882, 28.3442, 30.3652, 31.0111),
        (26.4529, 26.4082, 27.7812, 28.0976),
        (28.7662, 28.4686, 31.4173, 31.4448),
    ),
    "flowers": (
        (29.8116, 30.8773, 32.0690, 32.6267),
        (28.8444, 28.2578, 30.2644, 30.5044),
        (26.1073, 26.1131, 27.1729, 27.5092),
        (28.4645, 28.7165, 31.3378, 31.6123),
    ),
}
_TABLE_2 = (
    ((27.8221, 0.9368), (27.5406, 0.9326), (28.7041, 0.9479), (28.7322, 0.9476)),
    ((29.9814, 0.9568), (28.8870, 0.9469), (30.9274, 0.9647), (30.9984, 0.9652)),
    ((31.1935, 0.9658), (28.6428, 0.9350), (32.0025, 0.9712), (32.1832, 0.9715)),
    ((31.9283, 0.9702), (31.0741, 0.9648), (32.8755, 0.9757), (33.0835, 0.9765)),
)
_TABLE_3 = ((23.93, 0.882), (26.38, 0.926), (26.54, 0.931), (27.14, 0.975))


def figure(table: int, source: str, label: str, model: str) -> Figure | None:
    """The paper's result, if it has one. `source`: of the data set; tables 2 and 3 have one for all."""
    if model not in MODELS[table] or label not in LABELS[table]:
        return None
    row, column = LABELS[table].index(label), MODELS[table].index(model)
    if table == 1:
        return Figure(_TABLE_1[source][row][column]) if source in _TABLE_1 else None
    return Figure(*(_TABLE_2[row] if table == 2 else _TABLE_3)[column])
