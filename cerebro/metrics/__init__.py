"""What is known of a metric, without the tool that measures it.

direction  whether it is better low or high
rules      which rules for metrics a run has
states     what a worker reports of a metric: its kind, and the state that adds up
exact      the value of a metric from its state, as Keras computes it
"""
