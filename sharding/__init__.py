"""Photographs to WebDataset shards, and shards to batches in an exact order. No model, no Ray, no S3 client."""

from sharding.loader import Loader, ReaderState
from sharding.manifest import Dataset
from sharding.order import SampleOrder
from sharding.reader import Batch, ShardReader

__all__ = ["Batch", "Dataset", "Loader", "ReaderState", "SampleOrder", "ShardReader"]
