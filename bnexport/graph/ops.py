"""What TensorFlow's operators are to a converter: which pass a value on, which are random, which write variables, where data comes in."""

from typing import Any

from bnexport.graph.graphdef import Graph, Node, Ref

PASS_THROUGH = frozenset(
    {"Identity", "RefIdentity", "StopGradient", "PreventGradient", "CheckNumerics", "CheckNumericsV2", "Snapshot", "EnsureShape",
     "PlaceholderWithDefault", "DebugIdentity", "DebugIdentityV2", "ReadVariableOp", "DeepCopy", "GuaranteeConst", "Print"}
)  # fmt: skip
SWITCHES = frozenset({"Switch", "RefSwitch"})
MERGES = frozenset({"Merge", "RefMerge"})
SELECTS = frozenset({"Select", "SelectV2"})
LOOPS = frozenset({"Enter", "RefEnter", "Exit", "RefExit", "NextIteration", "RefNextIteration", "LoopCond", "While", "StatelessWhile"})
PLACEHOLDERS = frozenset({"Placeholder", "PlaceholderV2"})
VARIABLES = frozenset({"Variable", "VariableV2", "VarHandleOp", "TemporaryVariable", "AutoReloadVariable"})
BATCH_NORMS = frozenset({"FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3"})
REDUCTIONS = frozenset({"Mean", "Sum", "Max", "Min", "Prod", "All", "Any", "EuclideanNorm"})
ASK_WHETHER_INITIALISED = frozenset({"IsVariableInitialized", "VarIsInitializedOp"})
"""Operators that ask whether a variable has a value; one that was saved had."""
SHAPES_ONLY = frozenset({"Shape", "ShapeN", "Size", "Rank", "ZerosLike", "OnesLike"})
"""Operators that ask for a tensor's shape and not for its values."""
CROSS_ENTROPIES = frozenset({"SoftmaxCrossEntropyWithLogits", "SparseSoftmaxCrossEntropyWithLogits"})
"""Losses by their operator; their operands are logits and labels."""

_DATA_SOURCES = frozenset(
    {"QueueDequeue", "QueueDequeueV2", "QueueDequeueMany", "QueueDequeueManyV2", "QueueDequeueUpTo", "QueueDequeueUpToV2", "IteratorGetNext",
     "IteratorGetNextSync", "IteratorGetNextAsOptional", "ReaderRead", "ReaderReadV2", "ReaderReadUpTo", "ReaderReadUpToV2", "Unstage", "StagePeek",
     "ParseExample", "ParseExampleV2", "ParseSingleExample", "ParseSequenceExample", "DecodeRaw", "DecodeJpeg", "DecodePng", "DecodeImage",
     "DecodeCSV", "RecvTPUEmbeddingActivations"}
)  # fmt: skip
_RANDOM_PREFIXES = ("Random", "StatelessRandom", "StatelessTruncatedNormal", "StatelessMultinomial", "StatefulUniform", "StatefulStandardNormal",
                    "StatefulTruncatedNormal", "StatefulRandomBinomial", "TruncatedNormal", "ParameterizedTruncatedNormal", "Multinomial",
                    "StatelessParameterized", "LogUniformCandidateSampler", "UniformCandidateSampler", "LearnedUnigramCandidateSampler",
                    "FixedUnigramCandidateSampler", "AllCandidateSampler")  # fmt: skip
NORMAL_NUMBERS = frozenset(
    {"RandomStandardNormal", "TruncatedNormal", "StatelessRandomNormal", "StatelessRandomNormalV2", "StatelessTruncatedNormal"}
)
"""Operators that draw random numbers about zero; what they are scaled with and added to comes after them."""
_ASSIGN_PREFIXES = ("Assign", "ScatterUpdate", "ScatterAdd", "ScatterSub", "ResourceScatter", "Apply", "ResourceApply", "SparseApply",
                    "ResourceSparseApply")  # fmt: skip

_TEXT = frozenset({"AsString", "StringJoin", "StringFormat", "ReduceJoin", "EncodeBase64"})
LOOKUPS = frozenset({"LookupTableFind", "LookupTableFindV2", "Lookup"})
"""Lookups in tables; the last is our own, whose operands are the table's keys and values."""
_GRADIENTS = ("Grad", "GradV2", "GradV3", "BroadcastGradientArgs", "OptionalFromValue", "OptionalNone")


def is_random(op: str) -> bool:
    """Whether an operator draws random numbers (a shuffle of a queue does not count: it is a source of data)."""
    return op.startswith(_RANDOM_PREFIXES) and not op.startswith(("RandomShuffleQueue", "RandomDataset"))


def is_assignment(op: str) -> bool:
    """Whether an operator writes a variable."""
    return op.startswith(_ASSIGN_PREFIXES)


def is_source(node: Node) -> bool:
    """Whether data enters the graph here."""
    return node.op in PLACEHOLDERS or node.op in _DATA_SOURCES


def is_summary(op: str) -> bool:
    """Whether an operator only reports: summaries, prints that pass nothing on, assertions, histograms."""
    return "Summary" in op or op in {"PrintV2", "Assert", "HistogramFixedWidth", "Timestamp"} or op.startswith("Debug")


def makes_text(node: Node) -> bool:
    """Whether a node's result is text: labels looked up by their numbers, in tables or lists, numbers written out."""
    return node.op in _TEXT or (node.op in LOOKUPS and node.attrs.get("Tout") == "object") or node.attrs.get("Tparams") == "object"


def in_training_mode(node: Node) -> bool:
    """Whether a fused batch norm normalises with the statistics of its batch."""
    return node.op in BATCH_NORMS and bool(node.attrs.get("is_training", True))


def is_gradient(node: Node) -> bool:
    """Whether tf.gradients made a node: by its operator, or by the scope that it always opens.

    A branch of tf.cond in control flow v2 hands what its gradient will need to it as an Optional, made within the branch.
    """
    if node.op.endswith(_GRADIENTS):
        return True
    parts = node.name.split("/") if "gradients" in node.name else ()
    return any(part == "gradients" or (part.startswith("gradients_") and part[10:].isdigit()) for part in parts)


def behind(graph: Graph, ref: Ref) -> Ref:
    """The reference that gives a value, without what only passes it on."""
    node = graph.node(ref.node)
    while node.inputs and (node.op in PASS_THROUGH or node.op == "IdentityN"):
        ref = node.inputs[ref.output if node.op == "IdentityN" else 0]
        node = graph.node(ref.node)
    return ref


def constant_behind(graph: Graph, ref: Ref) -> Any:
    """The array of the constant that a value is; None for any other."""
    node = graph.nodes[behind(graph, ref).node]
    return node.attrs["value"] if node.op == "Const" else None
