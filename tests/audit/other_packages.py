"""Compares the audit's drift statistics with other people's, on the same values.

Standard input: one JSON object a line with two lists of counts by value (whole mmHg from 0) and what Windkessel makes of them. Standard output:
the greatest deviation of each statistic from each package. Ends with 1 if one is greater than 1e-9 (relative to values above 1).

Where a definition differs from ours, it is not compared: Evidently's and NannyML's own bins (here both are given our bins as categories),
Evidently's rule for empty bins when the smallest other proportion is at most 0.0001, scipy's exact p-value of Kolmogorov-Smirnov.

Made for: scipy 1.17.1, evidently 0.7.23, nannyml 0.13.1, numpy 2.4.6, pandas 2.3.3. Run by the test `other_packages_say_the_same`
(src/audit/statistics.rs) when WINDKESSEL_TEST_PYTHON_AUDIT names a Python that has them.
"""

import numpy
import pandas
import scipy.spatial
import scipy.stats
from deviations import compare
from evidently.legacy.calculations.stattests import psi, wasserstein_distance_norm
from evidently.legacy.core import ColumnType
from nannyml.drift.univariate import methods


def scipy_says(reference, current, table):
    used = table[:, table.sum(axis=0) > 0]
    ks = scipy.stats.ks_2samp(reference, current).statistic
    readings = len(reference) * len(current) / (len(reference) + len(current))
    distance = scipy.stats.wasserstein_distance(reference, current)
    pooled = numpy.sqrt((reference.var(ddof=1) + current.var(ddof=1)) / 2)
    said = {
        "jensen_shannon": scipy.spatial.distance.jensenshannon(table[0], table[1], base=2),
        "kolmogorov_smirnov": ks,
        "kolmogorov_smirnov_p": scipy.stats.kstwobign.sf(numpy.sqrt(readings) * ks),
        "wasserstein": distance / max(reference.std(), 0.001),
    }
    if used.shape[1] > 1:
        chi2 = scipy.stats.chi2_contingency(used, correction=False)
        said |= {"chi2": chi2.statistic, "chi2_p": chi2.pvalue}
    if pooled > 0:
        said["effect_size"] = (current.mean() - reference.mean()) / pooled
    return said


def evidently_says(reference, current, table):
    bins = [pandas.Series(values // 10, name="bin").astype(str) for values in (reference, current)]
    proportions = table / table.sum(axis=1, keepdims=True)
    said = {
        "wasserstein": wasserstein_distance_norm._wasserstein_distance_norm(
            pandas.Series(reference), pandas.Series(current), ColumnType.Numerical, 0.1
        )[0],
    }
    # Elsewhere empty bins get another proportion than ours.
    if proportions[proportions > 0].min() > 1e-4:
        said["psi"] = psi._psi(*bins, ColumnType.Categorical, 0.1)[0]
    return said


def nannyml_says(reference, current, table):
    bins = [pandas.Series(values // 10, name="bin").astype(str) for values in (reference, current)]
    said = {}
    for name, kind in (("jensen_shannon", "categorical"), ("hellinger", "categorical")):
        method = methods.MethodFactory.create(name, methods.FeatureType(kind), **options())
        said[name] = method.fit(bins[0]).calculate(bins[1])
    return said


def options():
    from nannyml.chunk import SizeBasedChunker
    from nannyml.thresholds import ConstantThreshold

    return {
        "chunker": SizeBasedChunker(10**9),
        "threshold": ConstantThreshold(upper=1.0),
        "computation_params": {},
    }


def sides_and_bins(case):
    sides = [numpy.repeat(numpy.arange(len(case[side])), case[side]).astype(float) for side in ("reference", "current")]
    return *sides, numpy.array([numpy.bincount((side // 10).astype(int), minlength=31) for side in sides])


compare((scipy_says, evidently_says, nannyml_says), sides_and_bins)
