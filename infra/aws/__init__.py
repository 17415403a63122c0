"""What a cluster needs in an AWS account: bucket, roles, security group. See `python -m infra.aws --help`."""
