//! Tables without borders.

use comfy_table::{Cell, CellAlignment, Color, Table, presets};

use crate::{api::types::BackendState, cli::Screen};

/// How a column stands under its header.
#[derive(Clone, Copy)]
pub enum Align {
    Left,
    Right,
}

/// A table with `columns`; rows follow.
pub fn table(columns: &[(&str, Align)], screen: Screen) -> Table {
    let mut table = plain(screen);
    let header = columns.iter().map(|&(name, align)| {
        let alignment = match align {
            Align::Left => CellAlignment::Left,
            Align::Right => CellAlignment::Right,
        };
        Cell::new(name).set_alignment(alignment)
    });
    table.set_header(header);
    for (column, &(_, align)) in table.column_iter_mut().zip(columns) {
        if matches!(align, Align::Right) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

/// A table without a header, for names and values.
pub fn plain(screen: Screen) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.force_no_tty();
    if screen.colour {
        table.enforce_styling();
    }
    table
}

/// The table as lines, without the blanks that borders would stand in.
pub fn lines(table: &mut Table) -> String {
    let last = table.column_count().saturating_sub(1);
    for (at, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, if at == last { 0 } else { 2 }));
    }
    if table.is_empty() && table.header().is_none() {
        return String::new();
    }
    table.trim_fmt() + "\n"
}

/// A state in its colour.
pub fn state(state: BackendState) -> Cell {
    let colour = match state {
        BackendState::Up => Color::Green,
        BackendState::Down | BackendState::Held => Color::Red,
        BackendState::Unknown | BackendState::Draining | BackendState::Leaving => Color::Yellow,
    };
    Cell::new(state.name()).fg(colour)
}

/// Text that something is wrong with.
pub fn alarming(text: &str) -> Cell {
    Cell::new(text).fg(Color::Red)
}
