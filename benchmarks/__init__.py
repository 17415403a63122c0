"""Measurements. Each file prints one JSON object last; ratios are of one run, alternating."""
