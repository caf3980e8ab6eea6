//! Aligned text for people: a head and lines whose columns begin at the same place.

/// The lines; columns whose place is in `numbers` end at the same place instead.
pub fn text(head: &[&str], rows: &[Vec<String>], numbers: &[usize]) -> String {
    let head: Vec<String> = head.iter().map(|word| (*word).to_owned()).collect();
    let lines = || std::iter::once(&head).chain(rows);
    let width = |column: usize| lines().filter_map(|line| line.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..head.len()).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for line in lines() {
        let cells = line.iter().zip(&widths).enumerate().map(|(column, (cell, &width))| {
            if numbers.contains(&column) { format!("{cell:>width$}") } else { format!("{cell:<width$}") }
        });
        text += cells.collect::<Vec<_>>().join("  ").trim_end();
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    #[test]
    fn columns_are_aligned_and_nothing_trails() {
        let rows = [
            vec!["a".to_owned(), "10".to_owned(), String::new()],
            vec!["bcd".to_owned(), "9".to_owned(), "é".to_owned()],
        ];
        assert_eq!(super::text(&["x", "n", "why"], &rows, &[1]), "x     n  why\na    10\nbcd   9  é\n");
    }
}
