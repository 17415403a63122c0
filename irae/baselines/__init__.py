"""The paper's baselines, one file for each."""
