"""Rules for what metrics are: a run keeps those that it was started with."""

MEANS = 1
"""Each metric of an epoch is the mean over partitions; the error is a compiled metric as it is."""

EXACT = 2
"""Metrics whose states add up are exact; the error is low where its metric is good."""
