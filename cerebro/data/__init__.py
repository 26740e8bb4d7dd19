"""Where data lies: partitions of subjects and of arrays, how they are made, and the catalog."""

from cerebro.data.arrays.files import read_arrays
from cerebro.data.arrays.partitioning import (
    ArrayForm,
    ArrayPartition,
    ArrayPartitioning,
    load_array_partitioning,
    partition_arrays,
)
from cerebro.data.catalog import Catalog, CatalogDataset
from cerebro.data.definitions import partition_dirs
from cerebro.data.shuffling import shuffled
from cerebro.data.subjects.acceleration import check_acceleration
from cerebro.data.subjects.manifest import Fold, Partition, Partitioning, Side, load_partitioning
from cerebro.data.subjects.partitioning import partition_subjects

__all__ = [
    "ArrayForm",
    "ArrayPartition",
    "ArrayPartitioning",
    "Catalog",
    "CatalogDataset",
    "Fold",
    "Partition",
    "Partitioning",
    "Side",
    "check_acceleration",
    "load_array_partitioning",
    "load_partitioning",
    "partition_arrays",
    "partition_dirs",
    "partition_subjects",
    "read_arrays",
    "shuffled",
]
