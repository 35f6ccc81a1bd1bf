//! How good probabilities are: ranking, error, calibration. Pure functions of probabilities and labels.

use ndarray::Array2;

use super::logistic::sigmoid;
use super::train::fit;

/// Area under the ROC curve: the share of (positive, negative) pairs in which the positive has the higher margin, ties counting half.
///
/// Computed from ranks (Hanley and McNeil, Radiology 1982;143:29-36). `None` if one class is missing.
pub(super) fn auroc(margins: &[f64], labels: &[bool]) -> Option<f64> {
    let mut order: Vec<usize> = (0..margins.len()).collect();
    order.sort_unstable_by(|&a, &b| margins[a].total_cmp(&margins[b]));
    let mut positive_ranks = 0.0;
    let mut ranked = 0;
    for ties in order.chunk_by(|&a, &b| margins[a] == margins[b]) {
        // Ranks count from 1; ties share their mean rank.
        let mean_rank = ranked as f64 + (ties.len() + 1) as f64 / 2.0;
        positive_ranks += mean_rank * ties.iter().filter(|&&index| labels[index]).count() as f64;
        ranked += ties.len();
    }
    let positives = labels.iter().filter(|&&label| label).count() as f64;
    let negatives = labels.len() as f64 - positives;
    (positives > 0.0 && negatives > 0.0)
        .then(|| (positive_ranks - positives * (positives + 1.0) / 2.0) / (positives * negatives))
}

/// Mean squared error of the probability (Brier, Monthly Weather Review 1950;78:1-3). `None` without rows.
pub(super) fn brier(margins: &[f64], labels: &[bool]) -> Option<f64> {
    let error = |(&margin, &label): (&f64, &bool)| (sigmoid(margin) - f64::from(u8::from(label))).powi(2);
    let total: f64 = margins.iter().zip(labels).map(error).sum();
    (!margins.is_empty()).then(|| total / margins.len() as f64)
}

/// Intercept and slope of the labels' log-odds on the margin (Cox, Biometrika 1958;45:562-565): (0, 1) is calibrated.
///
/// `None` if one class is missing, the margins do not vary, or they separate the labels (no finite slope exists).
pub(super) fn calibration(margins: &[f64], labels: &[bool]) -> Option<(f64, f64)> {
    let both = labels.contains(&true) && labels.contains(&false);
    let varies = margins.iter().any(|&margin| margin != margins[0]);
    if !both || !varies || matches!(auroc(margins, labels), Some(0.0 | 1.0)) {
        return None;
    }
    let mut design = Array2::ones((margins.len(), 2));
    design.column_mut(1).iter_mut().zip(margins).for_each(|(cell, &margin)| *cell = margin);
    let coefficients = fit(&design, labels, 0.0).ok()?;
    Some((coefficients[0], coefficients[1]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_area_is_the_share_of_ordered_pairs() {
        let margins = [0.3, -1.0, 0.3, 2.0, -0.5, 0.3, 1.0];
        let labels = [true, false, false, true, true, true, false];
        let mut pairs = Vec::new();
        for positive in (0..7).filter(|&index| labels[index]) {
            for negative in (0..7).filter(|&index| !labels[index]) {
                let (p, n): (f64, f64) = (margins[positive], margins[negative]);
                pairs.push(if p > n { 1.0 } else if p == n { 0.5 } else { 0.0 });
            }
        }
        let expected = pairs.iter().sum::<f64>() / pairs.len() as f64;
        assert!((auroc(&margins, &labels).unwrap() - expected).abs() < 1e-12);
        assert_eq!(auroc(&[1.0, 2.0], &[true, true]), None);
    }

    #[test]
    fn a_coin_that_knows_nothing_has_a_brier_score_of_a_quarter() {
        assert_eq!(brier(&[0.0, 0.0], &[true, false]), Some(0.25));
        assert_eq!(brier(&[], &[]), None);
    }

    #[test]
    fn doubled_margins_are_overconfident_by_two() {
        // Exactly calibrated groups: 1 of 4 at odds 1:3, 3 of 4 at odds 3:1.
        let (low, high) = ((1.0f64 / 3.0).ln(), 3.0f64.ln());
        let margins = [low, low, low, low, high, high, high, high];
        let labels = [true, false, false, false, true, true, true, false];
        let (intercept, slope) = calibration(&margins, &labels).unwrap();
        assert!(intercept.abs() < 1e-6 && (slope - 1.0).abs() < 1e-6);
        let (_, slope) = calibration(&margins.map(|margin| 2.0 * margin), &labels).unwrap();
        assert!((slope - 0.5).abs() < 1e-6);
        assert_eq!(calibration(&[1.0, 2.0], &[false, true]), None);
        assert_eq!(calibration(&[1.0, 1.0], &[false, true]), None);
    }
}
