//! Text for a terminal: tables, and numbers with their units. Pure.

use std::fmt::Write as _;

/// Bytes with a unit.
pub(crate) fn bytes(bytes: u64) -> String {
    indicatif::HumanBytes(bytes).to_string()
}

/// Rows of cells as lines, each column as wide as its widest cell.
pub(crate) fn aligned<const COLUMNS: usize>(rows: &[[String; COLUMNS]]) -> String {
    let widths: [usize; COLUMNS] =
        std::array::from_fn(|at| rows.iter().map(|row| row[at].chars().count()).max().unwrap_or_default());
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(widths) {
            let _ = write!(line, "{cell:width$}  ");
        }
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text
}

/// A time span by its largest unit: `2h`, `3d`.
pub(crate) fn age(seconds: u64) -> String {
    let units = [(24 * 60 * 60, 'd'), (60 * 60, 'h'), (60, 'm')];
    let largest = units.into_iter().find(|(unit, _)| seconds >= *unit);
    largest.map_or_else(|| format!("{seconds}s"), |(unit, letter)| format!("{}{letter}", seconds / unit))
}

#[cfg(test)]
mod tests {
    use super::age;

    #[test]
    fn a_time_span_is_shown_by_its_largest_unit() {
        for (seconds, wanted) in [(0, "0s"), (59, "59s"), (60, "1m"), (7200, "2h"), (86_399, "23h"), (200_000, "2d")] {
            assert_eq!(age(seconds), wanted);
        }
    }
}
