"""`python -m pipeline.evaluate`: PSNR and SSIM of a trained run on a data set, image by image."""

from __future__ import annotations

from pipeline.cli import run_command
from pipeline.evaluate.config import EvaluateConfig


def run(config: EvaluateConfig) -> None:
    from pipeline.evaluate.evaluation import main

    main(config)


if __name__ == "__main__":
    run_command(EvaluateConfig, run)
