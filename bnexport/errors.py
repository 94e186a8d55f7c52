"""Every error that a user of bnexport can see.

    BnexportError
    ├── CheckpointError         a checkpoint cannot be found, or cannot be read as TensorFlow would
    │   ├── CheckpointNotFound
    │   ├── CorruptCheckpoint
    │   └── TensorNotFound
    ├── GraphError              the graph has no exact translation, or leaves a choice
    │   ├── UnsupportedOps
    │   ├── AmbiguousNetwork
    │   ├── DependsOnData
    │   └── ContradictoryGraph
    ├── ScopeError              the variable names alone do not say what the network is
    ├── BadStatistics           a moving mean or variance that no batch norm can have
    ├── BundleError             a bundle cannot be read, written or evaluated
    │   ├── CorruptBundle
    │   └── IncompleteBundle
    ├── InputError              the data given to a bundle does not fit it
    └── UsageError              options that contradict each other, or name what is not there

A message is one sentence or a short list: what was found, in which file or node, and what to do next.
The command line catches `BnexportError`, a standard output that cannot be written, too little memory, and nothing else.
"""


class BnexportError(Exception):
    """The base of every error that bnexport raises on purpose."""


class CheckpointError(BnexportError):
    """A checkpoint cannot be read."""


class CheckpointNotFound(CheckpointError):
    """No checkpoint lies where the argument points."""


class CorruptCheckpoint(CheckpointError):
    """A checkpoint's bytes contradict themselves or their checksums."""


class TensorNotFound(CheckpointError):
    """A checkpoint holds no tensor of the name asked for."""


class GraphError(BnexportError):
    """A graph cannot be translated exactly."""


class UnsupportedOps(GraphError):
    """The graph uses operators that bnexport does not have; the message lists all of them."""


class AmbiguousNetwork(GraphError):
    """The graph leaves more than one reading; the message lists the candidates to choose from."""


class DependsOnData(GraphError):
    """A shape that cannot be known before the network is computed, whatever the sizes of its inputs are."""


class ContradictoryGraph(GraphError):
    """The graph and the checkpoint beside it say different things of one variable."""


class ScopeError(BnexportError):
    """A checkpoint without its graph whose variable names have none, or more than one, reading as a network."""


class BadStatistics(BnexportError):
    """A moving variance that is negative, or a moving statistic that is not finite."""


class BundleError(BnexportError):
    """A bundle cannot be read, written or evaluated."""


class CorruptBundle(BundleError):
    """A bundle's bytes contradict its manifest or its checksums."""


class IncompleteBundle(BundleError):
    """A bundle that holds the weights but not all that evaluation needs, such as the activation."""


class InputError(BnexportError):
    """Data that does not fit the network: shape, dtype, file, row or column are in the message."""


class UsageError(BnexportError):
    """Options that contradict each other, or that name something that does not exist."""
