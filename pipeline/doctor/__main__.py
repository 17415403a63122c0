"""`python -m pipeline.doctor`: checks of this machine, of every machine of a cluster, or of a cluster's yaml."""

from __future__ import annotations

from pipeline.cli import run_command
from pipeline.doctor.config import DoctorConfig


def run(config: DoctorConfig) -> None:
    from pipeline.doctor.cluster import main

    main(config)


if __name__ == "__main__":
    run_command(DoctorConfig, run)
