//! Which readings a sink takes.
//!
//! A row that replaces or withdraws an earlier version always passes: the sink may hold the earlier one, and would keep it for ever.

use arrow::array::{Array, AsArray, ListArray};

use crate::config::{ReadingFilter, TableName};
use crate::sink::Rows;

/// Decides row by row. Made once per batch of rows.
pub struct Filter<'a> {
    filter: ReadingFilter,
    reasons: Option<&'a ListArray>,
    replaces: &'a [bool],
}

impl<'a> Filter<'a> {
    /// For these rows; tables other than `readings` pass whole. Panics if `readings` has no list of reasons or not one flag per row.
    pub fn new(filter: ReadingFilter, rows: &'a Rows) -> Self {
        if rows.table != TableName::Readings || filter == ReadingFilter::All {
            return Filter { filter: ReadingFilter::All, reasons: None, replaces: &[] };
        }
        assert_eq!(rows.replaces.len(), rows.batch.num_rows(), "one flag per reading");
        let reasons = rows.batch.column_by_name("reasons").expect("readings have reasons");
        Filter { filter, reasons: Some(reasons.as_list()), replaces: &rows.replaces }
    }

    /// True if the sink takes this row.
    pub fn passes(&self, row: usize) -> bool {
        let Some(reasons) = self.reasons else { return true };
        let anomalous = reasons.is_valid(row) && reasons.value_length(row) > 0;
        self.replaces[row]
            || match self.filter {
                ReadingFilter::All => true,
                ReadingFilter::Anomalies => anomalous,
                ReadingFilter::Normal => !anomalous,
            }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::testing;

    #[test]
    fn rows_that_replace_an_earlier_version_pass_every_filter() {
        // Normal, anomalous, and the same again as corrections.
        let rows = testing::readings(7, &[(118.0, false), (150.0, false), (118.0, true), (150.0, true)]);
        let passing = |filter| {
            let filter = Filter::new(filter, &rows);
            (0..4).filter(|row| filter.passes(*row)).collect::<Vec<_>>()
        };
        assert_eq!(passing(ReadingFilter::All), [0, 1, 2, 3]);
        assert_eq!(passing(ReadingFilter::Anomalies), [1, 2, 3]);
        assert_eq!(passing(ReadingFilter::Normal), [0, 2, 3]);
    }

    #[test]
    fn other_tables_pass_whole() {
        let rows = testing::rejected(7, 3);
        assert!((0..3).all(|row| Filter::new(ReadingFilter::Anomalies, &rows).passes(row)));
    }
}
