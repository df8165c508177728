//! Lines over steps of something, with whiskers from the least to the greatest figure.

use anyhow::{Context as _, Result, ensure};
use plotters::{
    chart::ChartBuilder,
    element::{Circle, PathElement},
    style::{Color as _, TRANSPARENT, text_anchor::HPos},
};

use super::canvas::{Area, FAINT, GRID, INK, LABEL, SMALL, Sheet, bold, greatest, text};
use crate::spread::Spread;

/// Pixels of a panel's width.
const WIDTH: i32 = 440;
/// Pixels of its height.
const HEIGHT: i32 = 360;
/// Pixels above the lines of a panel.
const HEAD: i32 = 32;
/// Steps by which series are apart that are at the same one, so that their whiskers are.
const APART: f64 = 0.05;
/// The height of a panel as a multiple of the greatest figure.
const ROOM: f64 = 1.06;

/// A plot of lines: panels side by side, all on one scale.
#[derive(Clone, Debug)]
pub struct Lines {
    /// What is around.
    pub sheet: Sheet,
    /// What the lines go over.
    pub axis: String,
    /// Its steps.
    pub steps: Vec<String>,
    /// What their height means.
    pub height: String,
    /// The panels.
    pub panels: Vec<Panel>,
}

/// Some of the lines.
#[derive(Clone, Debug)]
pub struct Panel {
    /// What this part is about.
    pub title: String,
    /// Each with the place of its series in the legend, and its figure at each step that has one.
    pub lines: Vec<(usize, Vec<Option<Spread>>)>,
}

impl Lines {
    /// Draws it.
    ///
    /// # Errors
    /// There are no lines.
    pub fn draw(&self) -> Result<String> {
        ensure!(!self.panels.is_empty() && !self.steps.is_empty(), "there are no lines to draw");
        let width = 48 + WIDTH * i32::try_from(self.panels.len())?;
        let lines = self.panels.iter().flat_map(|panel| &panel.lines);
        let figures: Vec<Spread> = lines.flat_map(|(_, figures)| figures.iter().flatten().copied()).collect();
        let end = greatest(&figures) * ROOM;
        self.sheet.draw(width, HEIGHT, |body| {
            let areas = body.split_evenly((1, self.panels.len()));
            self.panels.iter().zip(areas).try_for_each(|(panel, area)| self.panel(panel, &area, end))
        })
    }

    fn panel(&self, panel: &Panel, area: &Area<'_>, end: f64) -> Result<()> {
        area.draw_text(&panel.title, &bold(LABEL), (0, HEAD / 2))?;
        let last = u32::try_from(self.steps.len() - 1)?;
        let mut chart = ChartBuilder::on(area)
            .margin_top(HEAD)
            .margin_right(16)
            .x_label_area_size(56)
            .y_label_area_size(64)
            .build_cartesian_2d(-0.4..f64::from(last) + 0.4, 0.0..end)?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .x_labels(0)
            .y_labels(8)
            .y_label_formatter(&|value| format!("{value}"))
            .x_desc(&self.axis)
            .y_desc(&self.height)
            .axis_style(TRANSPARENT)
            .bold_line_style(GRID.stroke_width(1))
            .light_line_style(TRANSPARENT)
            .label_style(text(SMALL, FAINT, HPos::Left))
            .draw()?;
        let (left, top) = area.get_base_pixel();
        for (step, at) in self.steps.iter().zip(0_u32..) {
            let (x, y) = chart.backend_coord(&(f64::from(at), 0.0));
            area.draw_text(step, &text(SMALL, FAINT, HPos::Center), (x - left, y - top + 14))?;
        }
        let count = u32::try_from(panel.lines.len())?;
        for ((series, figures), number) in panel.lines.iter().zip(0_u32..) {
            let color = self.sheet.series.get(*series).context("a line is not in the legend")?.color;
            let aside = (f64::from(number) - f64::from(count - 1) / 2.0) * APART;
            let at = |step: u32| f64::from(step) + aside;
            let known: Vec<_> = (0..).zip(figures).filter_map(|(step, spread)| Some((at(step), (*spread)?))).collect();
            let line: Vec<_> = known.iter().map(|(x, spread)| (*x, spread.median.max(0.0))).collect();
            chart.draw_series([PathElement::new(line.clone(), color.stroke_width(2))])?;
            chart.draw_series(line.into_iter().map(|point| Circle::new(point, 4, color.filled())))?;
            let whiskers = known.iter().map(|(x, spread)| [(*x, spread.min.max(0.0)), (*x, spread.max.max(0.0))]);
            chart.draw_series(whiskers.map(|ends| PathElement::new(ends, INK.mix(0.7).stroke_width(1))))?;
        }
        Ok(())
    }
}
