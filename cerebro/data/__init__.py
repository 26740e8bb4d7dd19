"""Where data lies: partition definition files and the catalog."""

from cerebro.data.catalog import Catalog, CatalogDataset
from cerebro.data.definitions import partition_dirs

__all__ = ["Catalog", "CatalogDataset", "partition_dirs"]
