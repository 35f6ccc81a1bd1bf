//! Drift statistics: pure functions over the counts of two sides.
//!
//! A side is dense: one count for each *value* of the feature's grid ([`Grid`]), ascending. What compares values (Kolmogorov–Smirnov,
//! Wasserstein, moments) is that of the readings rounded to the grid, exactly: sums are integers, and only the last division rounds. What compares
//! proportions (PSI, Jensen–Shannon, Hellinger, χ²) looks at *bins*, each a fixed number of neighbouring values.
//!
//! All look at proportions, so the two sides may hold different numbers of readings. On 10⁵ readings every p-value rejects (CLINICAL §5), a
//! distance stays meaningful; readings of one patient are not independent of each other, and no statistic here knows. That is why the p-values
//! stand last, and a verdict needs `audit.readings_min` readings on both sides.
//!
//! A count below 0 can only come from a withdrawal of something that was never counted. It is held at 0: the statistics stay defined.

use statrs::function::gamma::checked_gamma_ur;

use crate::audit::series::Grid;

/// Stands for the proportion of a bin that is empty on one side, so that its logarithm exists.
///
/// Source: Evidently 0.7 (`get_binned_data`), which puts 0.0001 there unless the smallest other proportion is no greater than that;
/// it then takes a millionth of that proportion. Windkessel always takes 0.0001: with the second rule one stray reading among 10⁵
/// decides how much every empty bin weighs.
pub const PROPORTION_EMPTY: f64 = 1e-4;

/// A reference whose values hardly differ divides by this instead of its standard deviation. Source: Evidently 0.7 (`wasserstein_distance_norm`).
pub const DEVIATION_MIN: f64 = 1e-3;

/// Population stability index: Σ (cᵢ − rᵢ) ln(cᵢ / rᵢ) over the proportions of the bins, natural logarithm, empty bins at
/// [`PROPORTION_EMPTY`], bins empty on both sides left out (their term is 0).
///
/// Never negative; 0 for equal proportions; no upper bound. `None` if a side holds no readings. Symmetric in its arguments.
///
/// Source: Siddiqi, *Credit Risk Scorecards* (2006), ch. 10; it is Jeffreys' divergence. Thresholds 0.1 and 0.25 are industry habit.
pub fn population_stability_index(reference: &[u64], current: &[u64]) -> Option<f64> {
    let floor = |proportion: f64| if proportion == 0.0 { PROPORTION_EMPTY } else { proportion };
    let psi = proportions(reference, current)?
        .filter(|(r, c)| *r > 0.0 || *c > 0.0)
        .map(|(r, c)| (floor(c) - floor(r)) * (floor(c) / floor(r)).ln())
        .sum::<f64>();
    // The sum of nothing is -0.0, and a statistic is printed.
    Some(psi.max(0.0))
}

/// Jensen–Shannon distance: the square root of the divergence ½ Σ rᵢ log₂(rᵢ/mᵢ) + ½ Σ cᵢ log₂(cᵢ/mᵢ), mᵢ = (rᵢ + cᵢ)/2.
///
/// A metric between 0 (equal proportions) and 1 (nothing in common). `None` if a side holds no readings.
///
/// Source: Lin 1991, "Divergence measures based on the Shannon entropy", IEEE Trans. Inf. Theory 37(1); Endres & Schindelin 2003
/// for the square root. The same as `scipy.spatial.distance.jensenshannon(r, c, base=2)`, and as Evidently's and NannyML's.
pub fn jensen_shannon_distance(reference: &[u64], current: &[u64]) -> Option<f64> {
    let divergence = proportions(reference, current)?
        .map(|(r, c)| {
            let middle = f64::midpoint(r, c);
            relative_entropy(r, middle) + relative_entropy(c, middle)
        })
        .sum::<f64>()
        / 2.0;
    // Rounding may leave a divergence of 0 or 1 a few units of the last place outside.
    Some(divergence.clamp(0.0, 1.0).sqrt())
}

/// Hellinger distance: √(½ Σ (√rᵢ − √cᵢ)²), 0 to 1. `None` if a side holds no readings.
///
/// Source: as NannyML 0.13 and Evidently 0.7 have it; whylogs' thresholds are 0.15 and 0.4.
pub fn hellinger_distance(reference: &[u64], current: &[u64]) -> Option<f64> {
    let sum = proportions(reference, current)?.map(|(r, c)| (r.sqrt() - c.sqrt()).powi(2)).sum::<f64>();
    Some((sum / 2.0).clamp(0.0, 1.0).sqrt())
}

/// Pearson's χ² of the bins as a table of two rows, without continuity correction, and its p-value; bins that are empty on both sides are no
/// column. `None` if a side holds no readings or fewer than two columns are left.
///
/// Source: the same as `scipy.stats.chi2_contingency(table, correction=False)`, which NannyML 0.13 uses for categories.
pub fn chi2(reference: &[u64], current: &[u64]) -> Option<(f64, f64)> {
    let (of_reference, of_current) = totals(reference, current)?;
    let all = of_reference + of_current;
    let term = |observed: u64, row: f64, column: f64| {
        let expected = row * column / all;
        (observed as f64 - expected).powi(2) / expected
    };
    let (mut chi2, mut columns) = (0.0, 0u32);
    for (r, c) in reference.iter().zip(current).filter(|(r, c)| **r + **c > 0) {
        let column = (r + c) as f64;
        chi2 += term(*r, of_reference, column) + term(*c, of_current, column);
        columns += 1;
    }
    (columns >= 2).then(|| (chi2, chi2_survival(chi2, columns - 1)))
}

/// Readings on the two sides; `None` if one has none.
fn totals(reference: &[u64], current: &[u64]) -> Option<(f64, f64)> {
    let (reference, current) = (reference.iter().sum::<u64>(), current.iter().sum::<u64>());
    (reference > 0 && current > 0).then_some((reference as f64, current as f64))
}

/// Proportions of the two sides, bin by bin; `None` if a side holds no readings.
fn proportions<'a>(reference: &'a [u64], current: &'a [u64]) -> Option<impl Iterator<Item = (f64, f64)> + 'a> {
    let (of_reference, of_current) = totals(reference, current)?;
    let bins = reference.iter().zip(current);
    Some(bins.map(move |(r, c)| (*r as f64 / of_reference, *c as f64 / of_current)))
}

/// Both sides of a comparison. Made of counts by value; bins are summed once.
#[derive(Clone, Debug)]
pub struct Sides {
    grid: Grid,
    reference: Counts,
    current: Counts,
}

/// One side.
#[derive(Clone, Debug)]
struct Counts {
    values: Vec<i64>,
    bins: Vec<u64>,
    readings: u64,
}

impl Counts {
    fn new(grid: &Grid, values: &[i64]) -> Self {
        let values: Vec<i64> = values.iter().map(|count| (*count).max(0)).collect();
        let bins: Vec<u64> = grid.bins_of(&values).map(|bin| bin.iter().sum::<i64>().unsigned_abs()).collect();
        let readings = bins.iter().sum();
        Counts { values, bins, readings }
    }
}

impl Sides {
    /// Of two dense slices, one count a value of `grid`.
    pub fn new(grid: Grid, reference: &[i64], current: &[i64]) -> Self {
        assert_eq!((reference.len(), current.len()), (grid.values(), grid.values()), "one count a value");
        let (reference, current) = (Counts::new(&grid, reference), Counts::new(&grid, current));
        Sides { grid, reference, current }
    }

    /// Readings in the reference and in the current window.
    pub fn readings(&self) -> (u64, u64) {
        (self.reference.readings, self.current.readings)
    }

    /// Readings by bin: reference, current.
    pub fn bins(&self) -> (&[u64], &[u64]) {
        (&self.reference.bins, &self.current.bins)
    }

    /// Moments: reference, current.
    pub fn moments(&self) -> (Moments, Moments) {
        (Moments::of(&self.grid, &self.reference.values), Moments::of(&self.grid, &self.current.values))
    }

    fn both(&self) -> Option<(f64, f64)> {
        let (reference, current) = self.readings();
        (reference > 0 && current > 0).then_some((reference as f64, current as f64))
    }

    /// Kolmogorov–Smirnov statistic: the greatest difference of the distribution functions of the values, 0 to 1; and its p-value by
    /// Kolmogorov's limit with n = rc/(r + c). `None` if a side holds no readings.
    ///
    /// Source: the statistic is `scipy.stats.ks_2samp`'s; the p-value `scipy.stats.kstwobign.sf(√n D)`. Evidently's and scipy's p-value is by an exact
    /// or a finer asymptotic formula, so that theirs differs a little where it is neither 0 nor 1.
    pub fn kolmogorov_smirnov(&self) -> Option<(f64, f64)> {
        let (reference, current) = self.both()?;
        let greatest = self.distribution_gaps().max()? as f64 / (reference * current);
        let readings = reference * current / (reference + current);
        Some((greatest, kolmogorov_survival(readings.sqrt() * greatest)))
    }

    /// Wasserstein distance of the values (order 1, in the feature's unit) divided by the standard deviation of the reference (of the population,
    /// n), but at least by [`DEVIATION_MIN`]. `None` if a side holds no readings.
    ///
    /// Source: `scipy.stats.wasserstein_distance`; the norm as in Evidently 0.7, whose threshold is 0.1.
    pub fn wasserstein_distance(&self) -> Option<f64> {
        let (reference, current) = self.both()?;
        let area: u128 = self.distribution_gaps().sum();
        let distance = area as f64 / (reference * current) * self.grid.step;
        Some(distance / self.moments().0.deviation_of_all()?.max(DEVIATION_MIN))
    }

    /// |F_reference − F_current| × r × c after each value: whole numbers.
    fn distribution_gaps(&self) -> impl Iterator<Item = u128> + '_ {
        let (reference, current) = (i128::from(self.reference.readings), i128::from(self.current.readings));
        let (mut below_reference, mut below_current) = (0i128, 0i128);
        self.reference.values.iter().zip(&self.current.values).map(move |(r, c)| {
            below_reference += i128::from(*r);
            below_current += i128::from(*c);
            (below_reference * current - below_current * reference).unsigned_abs()
        })
    }

    /// Standardised difference of the means, current less reference: over √((s_r² + s_c²)/2). `None` below two readings on a side, or if
    /// neither side varies.
    ///
    /// Source: Austin 2009, "Balance diagnostics …", Statistics in Medicine 28(25); 0.2 is called small, 0.5 medium, 0.8 large (Cohen 1988).
    pub fn effect_size(&self) -> Option<f64> {
        let (reference, current) = self.moments();
        let pooled = f64::midpoint(reference.variance?, current.variance?).sqrt();
        (pooled > 0.0).then(|| Some((current.mean? - reference.mean?) / pooled))?
    }
}

/// What the values of one side amount to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Moments {
    /// Readings.
    pub readings: u64,
    /// Arithmetic mean, in the feature's unit; `None` without readings.
    pub mean: Option<f64>,
    /// Variance of the sample (n − 1), in the unit's square; `None` below two readings.
    pub variance: Option<f64>,
}

impl Moments {
    /// Of counts by value. The sums are of whole steps, so nothing is lost before the division.
    pub(super) fn of(grid: &Grid, values: &[i64]) -> Self {
        let (mut readings, mut sum, mut squares) = (0i128, 0i128, 0i128);
        for (step, count) in (0i128..).zip(values.iter().map(|count| i128::from(*count))) {
            readings += count;
            sum += step * count;
            squares += step * step * count;
        }
        let steps = readings as f64;
        let mean = (readings > 0).then(|| grid.low + grid.step * (sum as f64 / steps));
        // n Σx² − (Σx)² is a whole number: no cancellation.
        let spread = (readings * squares - sum * sum) as f64 * grid.step * grid.step;
        let variance = (readings > 1).then(|| spread / (steps * (steps - 1.0)));
        Moments { readings: readings.unsigned_abs() as u64, mean, variance }
    }

    /// Standard deviation of the sample (n − 1).
    pub fn standard_deviation(&self) -> Option<f64> {
        self.variance.map(f64::sqrt)
    }

    /// Standard deviation of the population (n); 0 for one reading.
    fn deviation_of_all(&self) -> Option<f64> {
        let readings = self.readings as f64;
        match self.readings {
            0 => None,
            1 => Some(0.0),
            _ => Some((self.variance? * (readings - 1.0) / readings).sqrt()),
        }
    }
}

/// p log₂(p/q), 0 for p = 0. `q` is at least p/2 here.
fn relative_entropy(p: f64, q: f64) -> f64 {
    if p > 0.0 { p * (p / q).log2() } else { 0.0 }
}

/// How likely χ² is to be at least so great: the upper regularised incomplete gamma function Q(degrees/2, χ²/2).
fn chi2_survival(chi2: f64, degrees: u32) -> f64 {
    if chi2 <= 0.0 {
        return 1.0;
    }
    checked_gamma_ur(f64::from(degrees) / 2.0, chi2 / 2.0).map_or(0.0, |p| p.clamp(0.0, 1.0))
}

/// How likely Kolmogorov's limit is to be at least `x`.
///
/// Source: Kolmogorov 1933; both series are the same function, and each converges fast where the other does not (Marsaglia, Tsang & Wang 2003,
/// J. Stat. Software 8(18)).
fn kolmogorov_survival(x: f64) -> f64 {
    const TERMS: i32 = 20;
    if x <= 0.0 {
        return 1.0;
    }
    let odd = |k: i32| f64::from(2 * k - 1);
    if x < 1.0 {
        let scale = -std::f64::consts::PI.powi(2) / (8.0 * x * x);
        let sum: f64 = (1..=TERMS).map(|k| (odd(k).powi(2) * scale).exp()).sum();
        return (1.0 - std::f64::consts::TAU.sqrt() / x * sum).clamp(0.0, 1.0);
    }
    let sum: f64 = (1..=TERMS)
        .map(|k| {
            let term = (-2.0 * f64::from(k).powi(2) * x * x).exp();
            if k % 2 == 1 { term } else { -term }
        })
        .sum();
    (2.0 * sum).clamp(0.0, 1.0)
}
#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::audit::judge::Statistic;
    use crate::audit::series::PRESSURE;
    use crate::audit::tests::compare_with_other_packages;

    /// Values 0 to 300, one reading each time a value is named.
    fn sides(reference: &[i64], current: &[i64]) -> Sides {
        let dense = |counts: &[i64]| {
            let mut values = vec![0; PRESSURE.values()];
            values[100..100 + counts.len()].copy_from_slice(counts);
            values
        };
        Sides::new(PRESSURE, &dense(reference), &dense(current))
    }

    /// PSI by numpy 2.4.6 with Evidently's formula and a floor of 1e-4; distance by `scipy.spatial.distance.jensenshannon(r, c, base=2)`, scipy 1.17.1.
    #[test]
    #[expect(clippy::type_complexity, reason = "a table of test vectors")]
    fn scipy_and_numpy_say_the_same() {
        let vectors: [(&str, &[u64], &[u64], f64, f64); 6] = [
            (
                "shifted by one bin",
                &[10, 20, 40, 20, 10, 0],
                &[0, 10, 20, 40, 20, 10],
                1.7960578130765983,
                0.41657382221037287,
            ),
            ("same shape, ten times the readings", &[1, 2, 3, 4], &[10, 20, 30, 40], 0.0, 0.0),
            ("nothing in common", &[500, 0], &[0, 700], 18.41883867587797, 1.0),
            (
                "slightly different",
                &[120, 340, 510, 260, 90],
                &[100, 300, 560, 300, 110],
                0.01577168379521788,
                0.05330040379625322,
            ),
            (
                "small proportions",
                &[100_000, 3, 0, 250_000],
                &[90_000, 0, 7, 260_000],
                0.004484207713727499,
                0.027549285454987357,
            ),
            ("one bin", &[9], &[4], 0.0, 0.0),
        ];
        for (name, reference, current, psi, distance) in vectors {
            let ours = population_stability_index(reference, current).unwrap();
            assert!((ours - psi).abs() <= 1e-12 * psi.max(1.0), "{name}: PSI {ours}, expected {psi}");
            let ours = jensen_shannon_distance(reference, current).unwrap();
            assert!((ours - distance).abs() <= 1e-12, "{name}: distance {ours}, expected {distance}");
        }
    }

    /// By scipy 1.17.1 on the same values, from 100 upwards: KS statistic and p (`kstwobign`), Wasserstein by the standard deviation of the reference, χ²
    /// and p, effect size.
    #[test]
    fn scipy_says_the_same_of_values() {
        let vectors: [(&[i64], &[i64], [f64; 6]); 3] = [
            (
                &[500, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 300],
                &[400, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 310],
                [
                    0.061619718309859156,
                    0.11491232264867597,
                    0.12728114283310754,
                    5.931879986659494,
                    0.014869370415766114,
                    0.12565013872161637,
                ],
            ),
            (
                &[3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9, 3],
                &[2, 7, 1, 8, 2, 8, 1, 8, 2, 8, 4, 5, 9, 0, 4, 5],
                [
                    0.14763513513513513,
                    0.37187992110060664,
                    0.30214086387347006,
                    3.397930685473434,
                    0.06527826316236499,
                    -0.27550863464451536,
                ],
            ),
            (
                &[40; 25],
                &[20, 20, 20, 20, 20, 20, 20, 20, 20, 20, 20, 20, 60, 60, 60, 60, 60, 60, 60, 60, 60, 60, 60, 60, 60],
                [
                    0.2447058823529412,
                    1.090362119169717e-26,
                    0.42418250299576343,
                    102.13083262290425,
                    6.646170521789835e-23,
                    0.44684868520192456,
                ],
            ),
        ];
        for (reference, current, expected) in vectors {
            let sides = sides(reference, current);
            let (ks, ks_p) = sides.kolmogorov_smirnov().unwrap();
            let (reference, current) = sides.bins();
            let (chi2, chi2_p) = chi2(reference, current).unwrap();
            let wasserstein = sides.wasserstein_distance().unwrap();
            let ours = [ks, ks_p, wasserstein, chi2, chi2_p, sides.effect_size().unwrap()];
            for (ours, expected) in ours.into_iter().zip(expected) {
                assert!((ours - expected).abs() <= 1e-11 * expected.abs().max(1.0), "{ours}, expected {expected}");
            }
        }
    }

    /// Random sides, some of them alike, against scipy, Evidently and NannyML, where the definition is the same: within 1e-9.
    #[test]
    fn other_packages_say_the_same() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let case = |_| {
            let mut side = |readings: usize| {
                let (mean, spread) = (rng.random_range(80.0..150.0), rng.random_range(2.0..25.0));
                let mut values = vec![0i64; PRESSURE.values()];
                for _ in 0..readings {
                    let about: f64 = (0..4).map(|_| rng.random_range(-1.0..1.0)).sum();
                    values[usize::from(PRESSURE.value_of(mean + spread * about).0)] += 1;
                }
                values
            };
            let (reference, current) = (side(2_000), side(700));
            let ours = crate::audit::compare::statistics(&Sides::new(PRESSURE, &reference, &current));
            let of = |statistic: Statistic| (statistic.name().to_owned(), serde_json::json!(statistic.of(&ours)));
            let ours: serde_json::Map<String, serde_json::Value> = Statistic::ALL.map(of).into_iter().collect();
            serde_json::json!({ "reference": reference, "current": current, "ours": ours })
        };
        compare_with_other_packages("other_packages.py", (0..60).map(case));
    }

    #[test]
    fn without_readings_on_a_side_there_is_no_statistic() {
        for (reference, current) in [(&[][..], &[1][..]), (&[1], &[]), (&[-3], &[1])] {
            let sides = sides(reference, current);
            let (bins, other) = sides.bins();
            let binned = [population_stability_index, jensen_shannon_distance, hellinger_distance];
            assert!(binned.iter().all(|statistic| statistic(bins, other).is_none()));
            assert_eq!((chi2(bins, other), sides.kolmogorov_smirnov()), (None, None));
            assert_eq!((sides.wasserstein_distance(), sides.effect_size()), (None, None));
        }
    }

    #[test]
    fn moments_are_those_of_the_values() {
        let (reference, current) = sides(&[1, 0, 1], &[0, 5]).moments();
        assert_eq!((reference.readings, reference.mean, reference.variance), (2, Some(101.0), Some(2.0)));
        assert_eq!((current.readings, current.mean, current.variance), (5, Some(101.0), Some(0.0)));
        assert_eq!(sides(&[1], &[1]).moments().0.variance, None);
    }

    #[test]
    fn a_reference_that_does_not_vary_divides_by_the_least_deviation() {
        let sides = sides(&[10], &[0, 10]);
        assert_eq!(sides.wasserstein_distance(), Some(1.0 / DEVIATION_MIN));
        assert_eq!(sides.effect_size(), None);
    }

    #[test]
    fn the_two_series_of_kolmogorov_meet() {
        let (below, above) = (kolmogorov_survival(1.0f64.next_down()), kolmogorov_survival(1.0));
        assert!((below - above).abs() < 1e-14 && (above - 0.26999967167735456).abs() < 1e-14, "{above}");
        assert_eq!((kolmogorov_survival(0.0), kolmogorov_survival(100.0)), (1.0, 0.0));
    }

    fn counts() -> impl Strategy<Value = Vec<i64>> {
        prop::collection::vec(prop_oneof![2 => Just(0i64), 3 => 1i64..50, 1 => 1i64..1_000_000], 1..200)
            .prop_filter("a side without readings has no statistic", |counts| counts.iter().sum::<i64>() > 0)
    }

    fn bins(counts: &[i64]) -> Vec<u64> {
        sides(counts, &[]).bins().0.to_vec()
    }

    /// Every reading by itself.
    fn values(counts: &[i64]) -> Vec<f64> {
        let all = (0..).zip(counts).flat_map(|(value, count)| std::iter::repeat_n(f64::from(value), *count as usize));
        all.collect()
    }

    proptest! {
        #[test]
        fn the_distance_is_symmetric_and_between_0_and_1(a in counts(), b in counts()) {
            let (a, b) = (bins(&a), bins(&b));
            let distance = jensen_shannon_distance(&a, &b).unwrap();
            prop_assert!((0.0..=1.0).contains(&distance));
            prop_assert!((distance - jensen_shannon_distance(&b, &a).unwrap()).abs() <= 1e-12);
        }

        #[test]
        fn the_index_is_symmetric_and_never_negative(a in counts(), b in counts()) {
            let (a, b) = (bins(&a), bins(&b));
            let psi = population_stability_index(&a, &b).unwrap();
            prop_assert!(psi >= 0.0 && psi.is_finite());
            prop_assert!((psi - population_stability_index(&b, &a).unwrap()).abs() <= 1e-12 * psi.max(1.0));
        }

        #[test]
        fn equal_proportions_have_not_drifted(a in counts(), times in 1i64..100) {
            let b: Vec<_> = a.iter().map(|count| count * times).collect();
            let sides = sides(&a, &b);
            let (reference, current) = sides.bins();
            prop_assert!(population_stability_index(reference, current).unwrap() <= 1e-12);
            prop_assert!(jensen_shannon_distance(reference, current).unwrap() <= 1e-6);
            prop_assert!(hellinger_distance(reference, current).unwrap() <= 1e-6);
            prop_assert_eq!(sides.kolmogorov_smirnov(), Some((0.0, 1.0)));
            prop_assert_eq!(sides.wasserstein_distance(), Some(0.0));
        }

        #[test]
        fn the_distance_keeps_the_triangle_inequality(a in counts(), b in counts(), c in counts()) {
            let (a, b, c) = (bins(&a), bins(&b), bins(&c));
            let distance = |x: &[u64], y: &[u64]| jensen_shannon_distance(x, y).unwrap();
            prop_assert!(distance(&a, &c) <= distance(&a, &b) + distance(&b, &c) + 1e-9);
        }

        /// By the definitions, one reading at a time.
        #[test]
        fn values_compare_as_their_sorted_readings_do(
            a in prop::collection::vec(0i64..5, 1..60),
            b in prop::collection::vec(0i64..5, 1..60),
        ) {
            prop_assume!(a.iter().sum::<i64>() > 1 && b.iter().sum::<i64>() > 1);
            let (ours, (x, y)) = (sides(&a, &b), (values(&a), values(&b)));
            let below = |of: &[f64], value: f64| of.iter().filter(|other| **other <= value).count() as f64 / of.len() as f64;
            let gaps: Vec<f64> = (0..60).map(|value| (below(&x, value.into()) - below(&y, value.into())).abs()).collect();
            let (ks, _) = ours.kolmogorov_smirnov().unwrap();
            prop_assert!((ks - gaps.iter().copied().fold(0.0, f64::max)).abs() < 1e-12);
            let mean = |of: &[f64]| of.iter().sum::<f64>() / of.len() as f64;
            let squares = |of: &[f64]| of.iter().map(|value| (value - mean(of)).powi(2)).sum::<f64>();
            let deviation = (squares(&x) / x.len() as f64).sqrt().max(DEVIATION_MIN);
            prop_assert!((ours.wasserstein_distance().unwrap() - gaps.iter().sum::<f64>() / deviation).abs() < 1e-8);
            let sample = |of: &[f64]| squares(of) / (of.len() - 1) as f64;
            let pooled = f64::midpoint(sample(&x), sample(&y)).sqrt();
            match ours.effect_size() {
                Some(effect) => prop_assert!((effect - (mean(&y) - mean(&x)) / pooled).abs() < 1e-9),
                None => prop_assert!(pooled == 0.0),
            }
        }
    }
}
