"""What driver, daemon and executor say to each other: names, messages and their types."""
