"""What driver, daemon and executor say to each other: names, messages and their types.

messages  one class for each message
types     messages as JSON objects and back, with their types
bounds    what numbers and names may be, here and in the journal
"""
