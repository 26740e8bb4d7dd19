"""Where data lies: partition definition files, how they are made, and the catalog."""

from cerebro.data.catalog import Catalog, CatalogDataset
from cerebro.data.definitions import partition_dirs
from cerebro.data.manifest import Fold, Partition, Partitioning, Side, load_partitioning
from cerebro.data.partitioning import partition_subjects
from cerebro.data.shuffling import shuffled

__all__ = [
    "Catalog",
    "CatalogDataset",
    "Fold",
    "Partition",
    "Partitioning",
    "Side",
    "load_partitioning",
    "partition_dirs",
    "partition_subjects",
    "shuffled",
]
