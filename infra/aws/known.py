"""What AWS has, as far as its client library knows: looked up without the network."""

from __future__ import annotations

import functools


@functools.lru_cache(maxsize=1)
def instance_types() -> frozenset[str]:
    """Every EC2 instance type."""
    import botocore.session

    return frozenset(botocore.session.Session().get_service_model("ec2").shape_for("InstanceType").enum)


@functools.lru_cache(maxsize=1)
def regions() -> frozenset[str]:
    """Every region of EC2, in all parts of AWS."""
    import botocore.session

    session = botocore.session.Session()
    return frozenset(
        region for part in session.get_available_partitions() for region in session.get_available_regions("ec2", part)
    )
