"""Photographs to WebDataset shards, and shards to batches in an exact order. No model, no Ray, no S3 client."""

from sharding.dataset import Dataset
from sharding.order import DeterministicSampler
from sharding.read.batch import Batch
from sharding.read.loader import Loader, ReaderState
from sharding.read.reader import ShardReader

__all__ = ["Batch", "Dataset", "Loader", "ReaderState", "DeterministicSampler", "ShardReader"]
