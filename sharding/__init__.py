"""Photographs to WebDataset shards, and shards to batches in a deterministic order. No model, no Ray, no torch."""

from sharding.dataset import Dataset
from sharding.order import DeterministicSampler
from sharding.read.fields import Batch
from sharding.read.loader import Loader
from sharding.read.reader import ShardReader

__all__ = ["Batch", "Dataset", "DeterministicSampler", "Loader", "ShardReader"]
