"""What a run shows while it is in progress.

reporter       what the driver tells: lines, waits, records; the thread that draws
announcements  which records make a line, and its words
tally          what the view is made from: records and what the driver heard of workers
disk_usage     what the kept versions will take on disk
view           what is shown at one moment
layout         a view as styled lines, for a width and a height
plain          lines on standard error
terminal       a live view in a terminal, by rich
notebook       one cell's output that is updated in place
displays       which of them a run has

`announcements`, `tally`, `view` and `layout` are pure.
"""

from cerebro.progress.reporter import Reporter

__all__ = ["Reporter"]
