"""Which output of a node a function means.

Within a function an output is named `node:argument:index`. For operators of one output argument, which most are, the index is the output's number;
the others are listed here.
"""

from collections.abc import Mapping
from typing import Any

_LSTM = "i cs f o ci co h"
_SAMPLES = "sampled_candidates true_expected_count sampled_expected_count"
_NORM = "y batch_mean batch_variance reserve_space_1 reserve_space_2"
_NORM_GRADIENT = "x_backprop scale_backprop offset_backprop"
_PARSED = "sparse_indices*{0} sparse_values*sparse_types sparse_shapes*{0} dense_values*Tdense"
_SEQUENCE = "{0}_sparse_indices*N{0}_sparse {0}_sparse_values*{0}_sparse_types {0}_sparse_shapes*N{0}_sparse {0}_dense_values*{1}"

ARGUMENTS: dict[str, str] = {
    **dict.fromkeys(("AllCandidateSampler", "FixedUnigramCandidateSampler", "LearnedUnigramCandidateSampler"), _SAMPLES),
    **dict.fromkeys(("LogUniformCandidateSampler", "UniformCandidateSampler"), _SAMPLES),
    **dict.fromkeys(("BlockLSTM", "BlockLSTMV2", "LSTMBlockCell"), _LSTM),
    "BroadcastGradientArgs": "r0 r1",
    "CTCBeamSearchDecoder": "decoded_indices*top_paths decoded_values*top_paths decoded_shape*top_paths log_probability",
    "CTCGreedyDecoder": "decoded_indices decoded_values decoded_shape log_probability",
    "CombinedNonMaxSuppression": "nmsed_boxes nmsed_scores nmsed_classes valid_detections",
    **dict.fromkeys(("FusedBatchNorm", "FusedBatchNormV2"), _NORM),
    "FusedBatchNormV3": f"{_NORM} reserve_space_3",
    **dict.fromkeys(("FusedBatchNormGrad", "FusedBatchNormGradV2"), f"{_NORM_GRADIENT} reserve_space_3 reserve_space_4"),
    "FusedBatchNormGradV3": f"{_NORM_GRADIENT} reserve_space_4 reserve_space_5",
    "GRUBlockCell": "r u c h",
    "ListDiff": "out idx",
    "LogMatrixDeterminant": "sign log_abs_determinant",
    "Lu": "lu p",
    "MaxPoolWithArgmax": "output argmax",
    **dict.fromkeys(("Merge", "RefMerge"), "output value_index"),
    "NonMaxSuppressionV4": "selected_indices valid_outputs",
    "NonMaxSuppressionV5": "selected_indices selected_scores valid_outputs",
    "ParseExample": _PARSED.format("Nsparse"),
    "ParseExampleV2": f"{_PARSED.format('num_sparse')} ragged_values*ragged_value_types ragged_row_splits*ragged_split_types",
    "ParseSequenceExample": f"{_SEQUENCE.format('context', 'Tcontext_dense')} {_SEQUENCE.format('feature_list', 'feature_list_dense_types')} "
    "feature_list_dense_lengths*Nfeature_list_dense",
    "ParseSingleExample": _PARSED.format("num_sparse"),
    "Qr": "q r",
    **dict.fromkeys(("ReaderRead", "ReaderReadV2"), "key value"),
    **dict.fromkeys(("ReaderReadUpTo", "ReaderReadUpToV2"), "keys values"),
    **dict.fromkeys(("SelfAdjointEigV2", "Eig"), "e v"),
    **dict.fromkeys(("SoftmaxCrossEntropyWithLogits", "SparseSoftmaxCrossEntropyWithLogits"), "loss backprop"),
    "SparseFillEmptyRows": "output_indices output_values empty_row_indicator reverse_index_map",
    "SparseReorder": "output_indices output_values",
    "SparseReshape": "output_indices output_shape",
    "SparseAdd": "sum_indices sum_values sum_shape",
    **dict.fromkeys(("SparseConcat", "SparseCross", "SparseCrossHashed", "SparseCrossV2"), "output_indices output_values output_shape"),
    "SparseSlice": "output_indices output_values output_shape",
    **dict.fromkeys(("StringSplit", "StringSplitV2"), "indices values shape"),
    "Svd": "s u v",
    **dict.fromkeys(("Switch", "RefSwitch"), "output_false output_true"),
    **dict.fromkeys(("TensorArrayConcatV2", "TensorArrayConcatV3"), "value lengths"),
    "TensorArrayV3": "handle flow",
    **dict.fromkeys(("TensorListConcat", "TensorListConcatV2"), "tensor lengths"),
    "TensorListPopBack": "output_handle tensor",
    **dict.fromkeys(("TopK", "TopKV2"), "values indices"),
    **dict.fromkeys(("Unique", "UniqueV2"), "y idx"),
    **dict.fromkeys(("UniqueWithCounts", "UniqueWithCountsV2"), "y idx count"),
}
"""The output arguments of operators in their order; `*` and an attribute behind those that are lists: their number, or the types of their tensors."""


def output_number(op: str, attrs: Mapping[str, Any], argument: str, index: int) -> int:
    """The number of an output, by the name of its argument and its place in that."""
    before = 0
    for entry in ARGUMENTS.get(op, "").split():
        name, _, length = entry.partition("*")
        if name == argument:
            return before + index
        value = attrs.get(length) if length else 1
        before += value if isinstance(value, int) else len(value or ())
    return index
