"""Recordings of subjects, a day a file, dealt into partitions of equal weight."""
