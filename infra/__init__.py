"""Storage and machines: where data sets and runs live, and the computers that work on them."""
