//! What the demo prints: the same with and without colours, which only a terminal gets.

use std::time::Duration;

use anstream::println;
use anstyle::{AnsiColor, Style};

const TITLE: Style = Style::new().bold();
const SECTION: Style = AnsiColor::Cyan.on_default().bold();
const FAINT: Style = Style::new().dimmed();
const GOOD: Style = AnsiColor::Green.on_default();
const BAD: Style = AnsiColor::Red.on_default().bold();

/// Sections and checks so far.
#[derive(Debug, Default)]
pub(super) struct Screen {
    sections: usize,
    checks: usize,
    failures: usize,
}

impl Screen {
    /// Begins a section; `how` tells what is done there.
    pub(super) fn section(&mut self, title: &str, how: &str) {
        self.sections += 1;
        println!("\n{SECTION}{}  {title}{SECTION:#}  {FAINT}{how}{FAINT:#}\n", self.sections);
    }

    /// A promise, and whether it was kept.
    pub(super) fn check(&mut self, kept: bool, promise: &str) {
        self.checks += 1;
        if kept {
            println!("   {GOOD}✓{GOOD:#} {promise}");
        } else {
            self.failures += 1;
            println!("   {BAD}✗ {promise}{BAD:#}");
        }
    }

    pub(super) fn summary(&self, took: Duration) {
        let (style, kept) = (if self.failures == 0 { GOOD } else { BAD }, self.checks - self.failures);
        println!(
            "\n{style}{kept} of {} checks passed{style:#} in {:.0} s. Everything is removed again.\n",
            self.checks,
            took.as_secs_f64()
        );
    }

    pub(super) fn checks(&self) -> usize {
        self.checks
    }

    pub(super) fn failures(&self) -> usize {
        self.failures
    }
}

pub(super) fn title(text: &str) {
    println!("\n{TITLE}{text}{TITLE:#}\n");
}

/// Lines of a paragraph of their own.
pub(super) fn paragraph(text: &str) {
    verbatim(text);
    println!();
}

/// Lines as they are.
pub(super) fn verbatim(text: &str) {
    for line in text.lines() {
        println!("{}", format!("   {line}").trim_end());
    }
}

/// A table; the first row is its header.
pub(super) fn table(rows: &[Vec<String>]) {
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<_> = (0..columns).map(|column| width(column).unwrap_or_default()).collect();
    for (index, row) in rows.iter().enumerate() {
        let style = if index == 0 { FAINT } else { Style::new() };
        let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, width))| match column {
            // Names to the left, numbers to the right.
            0 => format!("{cell:<width$}"),
            _ => format!("{cell:>width$}"),
        });
        println!("   {style}{}{style:#}", cells.collect::<Vec<_>>().join("   ").trim_end());
    }
    println!();
}

/// A row of a table.
pub(super) fn row<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.map(str::to_owned).to_vec()
}

/// `12,345`.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Microseconds as `1.25 ms`.
#[expect(clippy::cast_precision_loss, reason = "for reading, and no latency has 52 bits of microseconds")]
pub(super) fn milliseconds(us: u64) -> String {
    format!("{:.2} ms", us as f64 / 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_by_thousands() {
        assert_eq!([0, 999, 1000, 12_345, 1_234_567].map(grouped), ["0", "999", "1,000", "12,345", "1,234,567"]);
        assert_eq!(milliseconds(1234), "1.23 ms");
    }
}
