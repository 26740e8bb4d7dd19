"""Keras 3 on TensorFlow.

handler           what the executor asks for, put together
fitting           a unit without a `train_fn`: `fit` and `evaluate`
compiled_metrics  what a compiled model measures: kinds of metrics, and their states after a pass
models            a model with what belongs to it: built, restored, fetched, kept between units
held              what else a model's objects hold: variables of theirs, and values in none
constants         what a model computes with that is in no variable
digests           whether such values are still the same
variables         which variables a version holds, and what they are called in it
weights_format    a version as the bytes of an HDF5 file
hdf5_structure    what an HDF5 file says that it holds, before it is believed
probing           what a model computes, to be proven where it hops to
datasets          what `input_fn` may return, and data sets that draw random numbers
returns           what `model_fn` may return
scope             Keras' global state and random generators, one of each for a model
runtime           this process's Keras and TensorFlow: threads, devices, determinism
installed         whether the Keras that is installed is one to train with
private           what of Keras' and h5py's private parts all this needs
"""

from cerebro.backends.keras.handler import KerasHandler

__all__ = ["KerasHandler"]
