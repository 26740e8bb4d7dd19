"""Arrays and data frames cut into partitions."""
