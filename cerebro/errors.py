"""Every error that the library raises on purpose, as one tree.

A message names the value, the constraint and the remedy. `except CerebroError` catches them all;
errors about arguments are also `ValueError`, so that they read naturally in a notebook.

    CerebroError
     ├── InputError (ValueError)      an argument is wrong; nothing has been started
     │    ├── PartitionError          a definition file, or a partition's path
     │    ├── SubjectError            a subject's data: damaged, without labels, or too few of them
     │    ├── AvailabilityError       a matrix, or a partition that no worker holds
     │    ├── ConfigurationError      a hyperparameter configuration, or a search procedure's
     │    └── ShippingError           a function that cannot travel to the workers
     ├── SecretError                  the shared secret: missing, readable by others, or different
     ├── RpcError                     a remote call
     │    ├── RpcTimeout              no answer within the deadline
     │    ├── RpcUnreachable          no connection: refused, no route, unknown host
     │    ├── RpcRejected             the other side refused it: signature, size, form
     │    └── RpcFault                the remote method raised; `.kind` names the error there
     ├── ClusterError                 the workers at start
     │    ├── WorkerUnreachable       nothing answers at a worker's URL
     │    ├── NotAWorker              something else answers, such as the original's worker
     │    ├── WorkerMismatch          a different version of Python, TensorFlow or cerebro-dl
     │    ├── WorkerBusy              the worker holds another run
     │    ├── RunNotHeld              the worker does not hold this run (any more)
     │    ├── Superseded              another driver has taken over this run
     │    ├── WorkerLeaving           the worker is stopping
     │    └── StorageNotShared        ckpt_root is not the same folder on every host
     │         └── StorageForbidden   one user may not read or write what another one makes there
     ├── UserFunctionError            a function of the user raised; carries the remote traceback
     │    ├── ModelDiffers            the model is another function on another worker
     │    └── BadReturn               it returned something that it should not
     │         └── DecisionError      `mst_eval_fn` or the search procedure did
     ├── VersionDamaged               a saved version of a model fails its checksum, or is gone
     │    └── VersionRefused          a file that cannot be a version, or must not be read as one
     ├── StorageError                 shared storage: full, read-only, stale
     │    └── UnsafePath              a name in a run's folder leads elsewhere: a link, a pipe
     └── RunError                     a run as a whole
          ├── RunFailed               every model failed, or no worker can read a partition
          ├── RunHeld                 another driver is running this run
          ├── UntrustedFolder         strangers own, or can write, where code is loaded from
          ├── ResumeRefused           what is given differs from what was started
          ├── ReplayRefused           it has not ended, or what is given differs
          ├── JournalDamaged          the journal cannot be trusted; names file and line
          ├── RunTooNew               a later version of this library wrote it
          └── NotARun                 a folder without a journal

`RunInterrupted` is outside the tree, as a `KeyboardInterrupt`: code that catches errors and
continues must not swallow a Ctrl-C.
"""

from __future__ import annotations

from cerebro.formatting import printable


class CerebroError(Exception):
    """The root of the tree.

    Messages quote workers, records, paths and configurations: `str` gives them as a terminal may
    show them, with control characters escaped.
    """

    def __str__(self) -> str:
        return printable(super().__str__())


class InputError(CerebroError, ValueError):
    """An argument is wrong. Raised before any training starts."""


class PartitionError(InputError):
    """A definition file or a partition's path is wrong; names file and line."""


class SubjectError(InputError):
    """Subjects cannot be partitioned: data is damaged or has no labels, or there are too few."""


class AvailabilityError(InputError):
    """An availability matrix has a wrong shape or value, or leaves a partition to no worker."""


class ConfigurationError(InputError):
    """A hyperparameter configuration is not a dictionary, or holds what JSON cannot; or a search
    procedure has an invalid parameter or space.
    """


class ShippingError(InputError):
    """A function cannot travel by value; names the variable that holds what cannot."""


class SecretError(CerebroError):
    """The shared secret cannot be used, or two sides hold different ones."""


class RpcError(CerebroError):
    """A remote call did not succeed."""


class RpcTimeout(RpcError):
    """No answer came within the deadline."""


class RpcUnreachable(RpcError):
    """No connection could be made, or it broke before the answer."""


class RpcRejected(RpcError):
    """The other side refused the request, or its answer cannot be trusted."""


class RpcFault(RpcError):
    """The remote method raised. `kind` is the name of the error's class there."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class ClusterError(CerebroError):
    """The workers cannot serve this run as they are."""


class WorkerUnreachable(ClusterError):
    """Nothing answers at a worker's URL."""


class NotAWorker(ClusterError):
    """What answers there is not a worker of this library."""


class WorkerMismatch(ClusterError):
    """A worker runs a different version of Python, TensorFlow or this library."""


class WorkerBusy(ClusterError):
    """A worker holds a run of another driver."""


class RunNotHeld(ClusterError):
    """A worker does not hold the run that it is asked to work for."""


class Superseded(ClusterError):
    """Another driver has taken over the run; this one must not continue."""


class WorkerLeaving(ClusterError):
    """A worker is stopping and takes no more units."""


class StorageNotShared(ClusterError):
    """The checkpoint folder is not the same folder on every host."""


class StorageForbidden(StorageNotShared):
    """Driver and workers run as users who may not read or write what the other makes; names the
    folder, the users and their umasks.
    """


class UserFunctionError(CerebroError):
    """A function of the user raised.

    `function` is its role (`"model_fn"`), `remote_traceback` the text of the traceback where it
    ran, and `output` the last lines it printed.
    """

    def __init__(
        self, message: str, *, function: str = "", remote_traceback: str = "", output: str = ""
    ) -> None:
        super().__init__(message)
        self.function = function
        self.remote_traceback = remote_traceback
        self.output = output


class BadReturn(UserFunctionError):
    """A function of the user returned something that its contract does not allow."""


class ModelDiffers(UserFunctionError):
    """A model computes something else on one worker than on another; names the layers."""


class DecisionError(BadReturn):
    """`mst_eval_fn` or the search procedure returned what cannot be carried out."""


class VersionDamaged(CerebroError):
    """A saved version of a model fails its checksum, is cut short, or is gone."""


class VersionRefused(VersionDamaged):
    """A file is of a kind, a size or a structure that no version of a model has; names the part."""


class StorageError(CerebroError):
    """Shared storage could not be written or read; names path and cause."""


class UnsafePath(StorageError):
    """A name in a run's folder leads out of it, or is no regular file: it is not used."""


class RunError(CerebroError):
    """A run cannot start, continue, or be read."""


class RunFailed(RunError):
    """Nothing is left to train: every model failed, or no worker can read a partition."""


class RunHeld(RunError):
    """Another driver is running this run; names host and process."""


class UntrustedFolder(RunError):
    """Another user owns, or strangers can write, a folder from which code would be loaded."""


class ResumeRefused(RunError):
    """The run cannot be resumed with what is given now; names what differs."""


class ReplayRefused(RunError):
    """A run cannot be replayed: it has not ended, or what is given differs from what it had."""


class JournalDamaged(RunError):
    """A journal is damaged before its end; names file and line."""


class RunTooNew(RunError):
    """A later version of this library wrote the run, in a format that this one does not know."""


class NotARun(RunError):
    """The folder holds no run."""


class RunInterrupted(KeyboardInterrupt):
    """The run was stopped by Ctrl-C or SIGTERM; says how to resume it."""

    def __str__(self) -> str:
        return printable(super().__str__())


def error_class(name: str) -> type[CerebroError] | None:
    """The error of this name in the tree, or None."""
    found = globals().get(name)
    if isinstance(found, type) and issubclass(found, CerebroError):
        return found
    return None
