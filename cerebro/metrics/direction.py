"""Whether a metric is better low or high: the one list that everything that compares keeps to.

A metric is known by its kind, where a worker has reported one, or by its usual name. Of any other
nobody can tell: whoever compares by it has to say so.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

LOWEST, HIGHEST = "min", "max"
MODES = (LOWEST, HIGHEST)

SPLITS = ("valid_", "train_")
"""How the names of metrics start in the history."""

LOSS = "loss"
"""The kind of a loss that is compiled as a metric: always better low, whatever it is called."""

OF_EVERY_UNIT = ("loss", "error")
"""The names of what every unit gives: always better low, whatever the metric behind it is."""

_KINDS_LOW = {
    LOSS, "BinaryCrossentropy", "CategoricalCrossentropy", "CategoricalHinge", "FalseNegatives",
    "FalsePositives", "Hinge", "KLDivergence", "LogCoshError", "MeanAbsoluteError",
    "MeanAbsolutePercentageError", "MeanSquaredError", "MeanSquaredLogarithmicError", "Poisson",
    "RootMeanSquaredError", "SparseCategoricalCrossentropy", "SquaredHinge",
}  # fmt: skip

_KINDS_HIGH = {
    "AUC", "Accuracy", "BinaryAccuracy", "BinaryIoU", "CategoricalAccuracy",
    "ConcordanceCorrelation", "CosineSimilarity", "F1Score", "FBetaScore", "IoU", "MeanIoU",
    "OneHotIoU", "OneHotMeanIoU", "PearsonCorrelation", "Precision", "PrecisionAtRecall",
    "R2Score", "Recall", "RecallAtPrecision", "SensitivityAtSpecificity",
    "SparseCategoricalAccuracy", "SparseTopKCategoricalAccuracy", "SpecificityAtSensitivity",
    "TopKCategoricalAccuracy", "TrueNegatives", "TruePositives",
}  # fmt: skip

_NAMES_LOW = {
    "bce", "binary_cross_entropy", "binary_crossentropy", "brier", "brier_score",
    "categorical_cross_entropy", "categorical_crossentropy", "categorical_hinge", "cce", "ce",
    "cer", "cross_entropy", "crossentropy", "eer", "error", "error_rate", "false_negatives",
    "false_positives", "fid", "fnr", "fpr", "hausdorff_distance", "hinge", "huber", "kl_divergence",
    "kld", "kullback_leibler_divergence", "log_cosh", "logcosh", "logloss", "loss", "mae", "mape",
    "mase", "medae", "misclassification_rate", "mse", "msle", "nll", "nrmse", "perplexity",
    "poisson", "ppl", "rmse", "rmsle", "smape", "sparse_categorical_crossentropy", "squared_hinge",
    "wape", "wer",
}  # fmt: skip

_NAMES_HIGH = {
    "acc", "accuracy", "ap", "auc", "auc_pr", "auc_roc", "aucpr", "auprc", "auroc",
    "average_precision", "balanced_acc", "balanced_accuracy", "binary_accuracy", "binary_io_u",
    "binary_iou", "bleu", "categorical_accuracy", "ccc", "cohen_kappa", "concordance_correlation",
    "cosine_similarity", "dice", "dice_coef", "dice_coefficient", "dice_score",
    "explained_variance", "f1", "f1_score", "f2", "f2_score", "f_score", "fbeta", "fbeta_score",
    "io_u", "iou", "jaccard", "kappa", "log_likelihood", "matthews_corrcoef", "mcc", "mean_io_u",
    "mean_iou", "miou", "mrr", "ndcg", "npv", "one_hot_io_u", "one_hot_iou", "one_hot_mean_io_u",
    "one_hot_mean_iou", "pearson_correlation", "ppv", "pr_auc", "precision", "precision_at_recall",
    "psnr", "r2", "r2_score", "r_squared", "recall", "recall_at_precision", "roc_auc",
    "sensitivity", "sensitivity_at_specificity", "sparse_categorical_accuracy",
    "sparse_top_k_categorical_accuracy", "specificity", "specificity_at_sensitivity", "ssim", "tnr",
    "top_k_accuracy", "top_k_categorical_accuracy", "tpr", "true_negatives", "true_positives",
    "uar",
}  # fmt: skip

_TOP = re.compile(r"top_?(k|\d+)(_(acc|accuracy|categorical_accuracy))?")
_ENDS_LOW = ("_error", "_loss")
_TURNS = {
    "free", "gain", "improvement", "inv", "inverse", "minus", "neg", "negated", "negative", "no",
    "non", "not", "one", "reduction", "without",
}  # fmt: skip
"""Words that may turn what follows into its opposite."""


def known_direction(metric: str, kinds: Mapping[str, str | None] | None = None) -> str | None:
    """Return "min" or "max" for a metric of the history, by its column; None if it is not known.

    `kinds` are those that workers have reported, by name without the prefix of a split; None where
    those of models differ in their direction.
    """
    name = bare(metric)
    if name in OF_EVERY_UNIT:
        return LOWEST
    kind = "" if kinds is None else kinds.get(name, "")
    return None if kind is None else direction_of(name, kind)


def direction_of(name: str, kind: str = "") -> str | None:
    """Return "min" or "max" for a metric that is known to be better low or high; None for others.

    Its kind counts, and where that says nothing, its name.
    """
    return direction_of_kind(kind) or direction_of_name(name)


def direction_of_kind(kind: str) -> str | None:
    """Return "min" or "max" for a kind of metric; None for one that says nothing of it."""
    if kind in _KINDS_LOW:
        return LOWEST
    return HIGHEST if kind in _KINDS_HIGH else None


def direction_of_name(name: str) -> str | None:
    """Return "min" or "max" for a usual name, without the prefix of a split; None for others.

    It may end in the number that Keras adds to a name that is used twice.
    """
    plain = re.sub(r"_\d+$", "", name.strip().lower().replace("-", "_").replace(" ", "_"))
    if plain in _NAMES_LOW:
        return LOWEST
    if plain in _NAMES_HIGH or _TOP.fullmatch(plain):
        return HIGHEST
    if plain.endswith(_ENDS_LOW) and _TURNS.isdisjoint(plain.split("_")):
        return LOWEST
    return None


def bare(metric: str) -> str:
    """Return a metric's name in the history without the prefix of its split."""
    for split in SPLITS:
        if metric.startswith(split):
            return metric.removeprefix(split)
    return metric


def unknown_direction(metric: str) -> str:
    """Say that nobody knows whether a metric is better low or high, and what to do."""
    return (
        f"metric={metric!r}: whether low or high values are better is not known of this name; "
        'pass mode="min" if the lowest is best, mode="max" if the highest is'
    )
