//! Drift statistics: pure functions over two histograms of the same fixed bins.
//!
//! Both look at *proportions*, so the two sides may hold different numbers of readings. Neither is a test: on 10⁵ readings every
//! p-value rejects (CLINICAL §5), an effect size stays meaningful. Readings of one patient are not independent of each other, and
//! neither statistic knows; that is why a verdict needs `audit.readings_min` readings on both sides.
//!
//! A count below 0 can only come from a withdrawal of something that was never counted. It is held at 0: the statistics stay defined.

use crate::audit::histogram::aligned;
use crate::audit::series::Bin;
use crate::config::AuditSpec;
use crate::vocabulary::findings::Verdict;

/// Stands for the proportion of a bin that is empty on one side, so that its logarithm exists.
///
/// Source: Evidently 0.7 (`get_binned_data`), which puts 0.0001 there unless the smallest other proportion is no greater than that;
/// it then takes a millionth of that proportion. Windkessel always takes 0.0001: with the second rule one stray reading among 10⁵
/// decides how much every empty bin weighs.
pub const PROPORTION_EMPTY: f64 = 1e-4;

/// Population stability index: Σ (cᵢ − rᵢ) ln(cᵢ / rᵢ) over the proportions of the bins, natural logarithm, empty bins at
/// [`PROPORTION_EMPTY`], bins empty on both sides left out (their term is 0).
///
/// Never negative; 0 for equal proportions; no upper bound. `None` if a side holds no readings. Symmetric in its arguments.
///
/// Source: Siddiqi, *Credit Risk Scorecards* (2006), ch. 10; it is Jeffreys' divergence. Thresholds 0.1 and 0.25 are industry habit.
pub fn population_stability_index(reference: &[(Bin, i64)], current: &[(Bin, i64)]) -> Option<f64> {
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
pub fn jensen_shannon_distance(reference: &[(Bin, i64)], current: &[(Bin, i64)]) -> Option<f64> {
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

/// What a population stability index means; without one it is insufficient.
pub fn verdict(psi: Option<f64>, spec: &AuditSpec) -> Verdict {
    match psi {
        None => Verdict::Insufficient,
        Some(psi) if psi >= spec.psi_act => Verdict::Act,
        Some(psi) if psi >= spec.psi_watch => Verdict::Watch,
        Some(_) => Verdict::None,
    }
}

/// Readings in a histogram.
pub fn readings(counts: &[(Bin, i64)]) -> u64 {
    counts.iter().map(|(_, count)| count.max(&0).unsigned_abs()).sum()
}

/// The proportions of both sides, bin by bin; `None` if a side holds no readings.
fn proportions<'a>(
    reference: &'a [(Bin, i64)],
    current: &'a [(Bin, i64)],
) -> Option<impl Iterator<Item = (f64, f64)> + 'a> {
    let (of_reference, of_current) = (readings(reference), readings(current));
    if of_reference == 0 || of_current == 0 {
        return None;
    }
    let share = |count: i64, of: u64| count.max(0) as f64 / of as f64;
    Some(aligned(reference, current).map(move |(r, c)| (share(r, of_reference), share(c, of_current))))
}

/// p log₂(p/q), 0 for p = 0. `q` is at least p/2 here.
fn relative_entropy(p: f64, q: f64) -> f64 {
    if p > 0.0 { p * (p / q).log2() } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bins(counts: &[i64]) -> Vec<(Bin, i64)> {
        counts
            .iter()
            .enumerate()
            .filter(|(_, count)| **count != 0)
            .map(|(bin, count)| (Bin(bin as u8), *count))
            .collect()
    }

    /// PSI by numpy 2.4.6 with Evidently's formula and a floor of 1e-4; distance by `scipy.spatial.distance.jensenshannon(r, c, base=2)`, scipy 1.17.1.
    #[test]
    #[expect(clippy::type_complexity, reason = "a table of test vectors")]
    fn scipy_and_numpy_say_the_same() {
        let vectors: [(&str, &[i64], &[i64], f64, f64); 6] = [
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
            let (reference, current) = (bins(reference), bins(current));
            let ours = population_stability_index(&reference, &current).unwrap();
            assert!((ours - psi).abs() <= 1e-12 * psi.max(1.0), "{name}: PSI {ours}, expected {psi}");
            let ours = jensen_shannon_distance(&reference, &current).unwrap();
            assert!((ours - distance).abs() <= 1e-12, "{name}: distance {ours}, expected {distance}");
        }
    }

    #[test]
    fn without_readings_on_a_side_there_is_no_statistic() {
        for (reference, current) in [(bins(&[]), bins(&[1])), (bins(&[1]), bins(&[])), (bins(&[-3]), bins(&[1]))] {
            assert_eq!(population_stability_index(&reference, &current), None);
            assert_eq!(jensen_shannon_distance(&reference, &current), None);
        }
    }

    #[test]
    fn verdicts_begin_at_their_thresholds() {
        let spec = AuditSpec { psi_watch: 0.1, psi_act: 0.25, ..Default::default() };
        for (psi, expected) in [
            (None, "insufficient"),
            (Some(0.0), "none"),
            (Some(0.1f64.next_down()), "none"),
            (Some(0.1), "watch"),
            (Some(0.25f64.next_down()), "watch"),
            (Some(0.25), "act"),
            (Some(9.0), "act"),
        ] {
            assert_eq!(verdict(psi, &spec).name(), expected, "{psi:?}");
        }
    }

    fn counts() -> impl Strategy<Value = Vec<(Bin, i64)>> {
        prop::collection::vec(prop_oneof![2 => Just(0i64), 3 => 1i64..50, 1 => 1i64..1_000_000], 1..29)
            .prop_map(|counts| bins(&counts))
            .prop_filter("a side without readings has no statistic", |counts| !counts.is_empty())
    }

    proptest! {
        #[test]
        fn the_distance_is_symmetric_and_between_0_and_1(a in counts(), b in counts()) {
            let distance = jensen_shannon_distance(&a, &b).unwrap();
            prop_assert!((0.0..=1.0).contains(&distance));
            prop_assert!((distance - jensen_shannon_distance(&b, &a).unwrap()).abs() <= 1e-12);
        }

        #[test]
        fn the_index_is_symmetric_and_never_negative(a in counts(), b in counts()) {
            let psi = population_stability_index(&a, &b).unwrap();
            prop_assert!(psi >= 0.0 && psi.is_finite());
            prop_assert!((psi - population_stability_index(&b, &a).unwrap()).abs() <= 1e-12 * psi.max(1.0));
        }

        #[test]
        fn equal_proportions_have_not_drifted(a in counts(), times in 1i64..100) {
            let b: Vec<_> = a.iter().map(|(bin, count)| (*bin, count * times)).collect();
            prop_assert!(population_stability_index(&a, &b).unwrap() <= 1e-12);
            prop_assert!(jensen_shannon_distance(&a, &b).unwrap() <= 1e-6);
        }

        #[test]
        fn the_distance_keeps_the_triangle_inequality(a in counts(), b in counts(), c in counts()) {
            let distance = |x: &[(Bin, i64)], y: &[(Bin, i64)]| jensen_shannon_distance(x, y).unwrap();
            prop_assert!(distance(&a, &c) <= distance(&a, &b) + distance(&b, &c) + 1e-9);
        }
    }
}
