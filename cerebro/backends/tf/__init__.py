"""TensorFlow V1 graphs.

handler      what the executor asks for, put together
graphs       building a unit's graph from `model_fn`
analysis     what a graph holds: random numbers, inputs that can start again
global_step  the graph's global step, and who advances it
session_guard  what `train_fn` must not run
sessions     running it: initialising, assigning, fetching
probing      what a graph computes, to be proven where it hops to
graph_cache  graphs and sessions that serve several units
checkpoint   a state as a TensorFlow bundle on disk
bundle_index  what a bundle says that it holds, before it is believed
host_memory  copies of states in memory that is used again
state_check  a state against a graph's variables
datasets     what is set for every input
error_hints  what to do about well-known mistakes
returns      what `model_fn` may return
runtime      this process's TensorFlow: V1 behaviour, threads, devices
private      what of TensorFlow's private parts all this needs
"""

import os

# Before any module below loads TensorFlow, which reads it once.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from cerebro.backends.tf.handler import TensorFlowHandler

__all__ = ["TensorFlowHandler"]
