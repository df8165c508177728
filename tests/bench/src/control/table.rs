//! Reports for people.

use comfy_table::{CellAlignment, Table, presets};

use super::report::Report;
use crate::spread::Spread;

/// All figures of `report`, then what failed.
#[must_use]
pub fn render(report: &Report) -> String {
    let machine = &report.machine;
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.force_no_tty();
    table.set_header(["row", "figure", "unit", "median", "min", "max", "x floor"]);
    for (at, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, if at == 6 { 0 } else { 2 }));
        if at > 2 {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    for row in &report.rows {
        for figure in &row.figures {
            let Spread { min, median, max } = figure.spread;
            let ratio = figure.ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{:.2}", ratio.median));
            let [median, min, max] = [median, min, max].map(number);
            table.add_row([row.name.clone(), figure.what.clone(), figure.unit.clone(), median, min, max, ratio]);
        }
    }
    let failures = report.rows.iter().filter_map(|row| Some(format!("\n{}: {}\n", row.name, row.error.as_ref()?)));
    format!(
        "{}, kernel {}, {}\nrounds: {}\n\n{}\n{}",
        machine.date,
        machine.kernel,
        machine.cpu,
        report.rounds,
        table.trim_fmt(),
        failures.collect::<String>()
    )
}

/// With three digits that count.
fn number(figure: f64) -> String {
    match figure.abs() {
        100.0.. => format!("{figure:.0}"),
        10.0.. => format!("{figure:.1}"),
        _ => format!("{figure:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::number;

    #[test]
    fn numbers_have_the_digits_that_count() {
        assert_eq!([0.0, 1.234, 12.34, 1234.5].map(number), ["0.00", "1.23", "12.3", "1234"]);
    }
}
