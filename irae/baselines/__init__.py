"""The systems that the paper compares IRAE with: one file for each."""
