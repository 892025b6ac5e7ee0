//! Tables in Markdown.

/// A table: the line below its head, such as `|---|--:|`, says how many columns there are and how
/// each is aligned.
pub(crate) fn table<H, C>(head: H, below: &str, rows: impl IntoIterator<Item = C>) -> String
where
    H: IntoIterator<Item: AsRef<str>>,
    C: IntoIterator<Item: AsRef<str>>,
{
    let mut lines = vec![line(head), below.to_string()];
    lines.extend(rows.into_iter().map(line));
    lines.join("\n")
}

fn line(cells: impl IntoIterator<Item: AsRef<str>>) -> String {
    let cells = cells.into_iter().map(|cell| match cell.as_ref() {
        "" => " |".to_string(),
        cell => format!(" {cell} |"),
    });
    cells.fold("|".to_string(), |line, cell| line + &cell)
}

#[cfg(test)]
mod tests {
    use super::table;

    #[test]
    fn a_table_has_a_head_and_a_line_for_each_row() {
        let rows = [["a", "1"], ["b", "2"]];
        let table = table(["", "value"], "|---|--:|", rows);
        assert_eq!(table, "| | value |\n|---|--:|\n| a | 1 |\n| b | 2 |");
    }
}
