"""A whole cluster on one machine; see hosts.py. `make cluster-test` runs it."""
