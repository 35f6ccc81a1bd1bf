"""Compares the audit's performance and fairness with other people's, on the same readings.

Standard input: one JSON object a line with the readings of two groups (probability, selected, outcome) and what Windkessel makes of them. Standard output:
the greatest deviation of each figure. Ends with 1 if one is greater than 1e-9.

Made for: fairlearn 0.15.0, scikit-learn 1.9.1, scipy 1.17.1, numpy 2.4.6, pandas 2.3.3. Run by the test `other_packages_say_the_same_of_scores`
(src/audit/scores.rs) when WINDKESSEL_TEST_PYTHON_AUDIT names a Python that has them.
"""

import numpy
import scipy.stats
import sklearn.metrics
from deviations import compare
from fairlearn.metrics import MetricFrame, false_positive_rate, selection_rate, true_positive_rate

RATES = {
    "selection_rate": selection_rate,
    "tpr": true_positive_rate,
    "fpr": false_positive_rate,
    "ppv": sklearn.metrics.precision_score,
}


def fairlearn_says(groups, probability, selected, happened):
    frame = MetricFrame(metrics=RATES, y_true=happened, y_pred=selected, sensitive_features=groups)
    by_group = frame.by_group
    said = {f"{rate} of {group}": by_group.loc[group, rate] for rate in RATES for group in ("first", "second")}
    between, ratio = frame.difference("between_groups"), frame.ratio("between_groups")
    said |= {f"{rate} difference": between[rate] for rate in RATES}
    return said | {f"{rate} ratio": ratio[rate] for rate in RATES}


def sklearn_says(groups, probability, selected, happened):
    metrics = sklearn.metrics
    return {
        "accuracy": metrics.accuracy_score(happened, selected),
        "auroc": metrics.roc_auc_score(happened, probability),
        "brier": metrics.brier_score_loss(happened, probability),
        "sensitivity": metrics.recall_score(happened, selected),
        "specificity": metrics.recall_score(happened, selected, pos_label=0),
        "ppv": metrics.precision_score(happened, selected),
    }


def scipy_says(groups, probability, selected, happened):
    interval = scipy.stats.binomtest(int(selected.sum()), len(selected)).proportion_ci(0.95, method="wilson")
    return {"selection_rate low": interval.low, "selection_rate high": interval.high}


def columns(case):
    readings = [(group, *reading) for group in ("first", "second") for reading in case[group]]
    groups, probability, selected, happened = (numpy.array(column) for column in zip(*readings, strict=True))
    return groups, probability, selected.astype(int), happened.astype(int)


compare((fairlearn_says, sklearn_says, scipy_says), columns)
