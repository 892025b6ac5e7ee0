//! Tables on the terminal.

/// The lines of a table. Each character of `columns` aligns one column, `<` to the left and `>` to
/// the right; two spaces separate columns. A row with a single cell is printed as it is, whatever
/// its width.
pub(crate) fn table(columns: &str, rows: &[Vec<String>]) -> Vec<String> {
    let in_columns = || rows.iter().filter(|row| row.len() > 1);
    let width = |column: usize| {
        let cells = in_columns().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<(char, usize)> = columns.chars().zip((0..).map(width)).collect();
    let line = |row: &Vec<String>| match row.as_slice() {
        [alone] => alone.clone(),
        cells => {
            let cells = cells.iter().zip(&widths);
            let cells = cells.map(|(cell, &(align, width))| match align {
                '<' => format!("{cell:<width$}"),
                _ => format!("{cell:>width$}"),
            });
            let line = cells.collect::<Vec<_>>().join("  ");
            line.trim_end().to_string()
        }
    };
    rows.iter().map(line).collect()
}

/// A row of cells.
pub(crate) fn row<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.map(String::from).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [
            row(["policy", "lr", "loss"]),
            row(["none", "0.1", "2"]),
            row(["a name that has a line of its own"]),
            row(["±", "10", "diverged"]),
        ];
        assert_eq!(
            table("<>>", &rows),
            [
                "policy   lr      loss",
                "none    0.1         2",
                "a name that has a line of its own",
                "±        10  diverged",
            ]
        );
        assert!(table("<>", &[]).is_empty());
    }
}
