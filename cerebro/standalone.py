"""The names that scripts for the original import: `from cerebro.standalone import …`."""

from cerebro.driver.schedule import schedule as standalone_schedule

__all__ = ["standalone_schedule"]
