//! Groups of horizontal bars, with whiskers from the least to the greatest figure.

use std::ops::Range;

use anyhow::{Context as _, Result};
use plotters::{
    chart::ChartBuilder,
    element::{Circle, PathElement, Rectangle},
    style::{Color as _, TRANSPARENT, text_anchor::HPos},
};

use super::canvas::{Area, FAINT, GRID, INK, LABEL, SMALL, Sheet, bold, greatest, number, text};
use crate::spread::Spread;

/// Pixels of a bar with the space to the next one.
const BAR: i32 = 16;
/// Pixels between groups.
const GAP: i32 = 12;
/// Pixels above the bars of a panel.
const HEAD: i32 = 32;
/// Pixels below them: the axis and what it shows.
const FOOT: i32 = 58;
/// Pixels for the labels of groups, at their left.
const LABELS: i32 = 165;
/// Part of a panel beyond the longest bar, for its number.
const ROOM: f64 = 0.16;

/// A plot of bars.
#[derive(Clone, Debug)]
pub struct Bars {
    /// What is around.
    pub sheet: Sheet,
    /// Side by side or one above the other.
    pub panels: Vec<Panel>,
    /// How many side by side; 1 or more.
    pub columns: usize,
}

/// Bars on one scale.
#[derive(Clone, Debug)]
pub struct Panel {
    /// What this part is about.
    pub title: String,
    /// What the bars' length means.
    pub axis: String,
    /// The bars.
    pub groups: Vec<Group>,
    /// Where a line is drawn, to compare with.
    pub mark: Option<f64>,
    /// How figures become lengths. Panels with the same axis have the same.
    pub scale: Scale,
}

/// How figures become lengths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// From 0 on.
    Linear,
    /// By their logarithms, where they are orders of magnitude apart. As there is no 0, there are points in place of bars.
    Logarithmic,
}

/// Bars that belong together.
#[derive(Clone, Debug)]
pub struct Group {
    /// What they have in common.
    pub label: String,
    /// Each with the place of its series in the legend.
    pub bars: Vec<(usize, Spread)>,
}

impl Bars {
    /// Draws it.
    ///
    /// # Errors
    /// There are no bars.
    pub fn draw(&self) -> Result<String> {
        let columns = self.columns.clamp(1, self.panels.len().max(1));
        let rows = self.panels.chunks(columns);
        let heights = rows.clone().map(|row| row.iter().map(Panel::height).max().context("no panels"));
        let heights = heights.collect::<Result<Vec<i32>>>()?;
        let width = 48 + i32::try_from(columns)? * if columns == 1 { 800 } else { 480 };
        let spread = |panel: &Panel| {
            let alike = self.panels.iter().filter(|other| other.axis == panel.axis);
            let figures: Vec<Spread> = alike.clone().flat_map(Panel::figures).copied().collect();
            panel.scale.range(&figures, alike.filter_map(|panel| panel.mark))
        };
        self.sheet.draw(width, heights.iter().sum(), |body| {
            let mut rest = body.clone();
            for (row, height) in rows.zip(heights) {
                let (now, later) = rest.split_vertically(height);
                for (panel, area) in row.iter().zip(now.split_evenly((1, columns))) {
                    panel.draw(&self.sheet, &area, spread(panel))?;
                }
                rest = later;
            }
            Ok(())
        })
    }
}

impl Panel {
    /// Pixels of all bars.
    fn length(&self) -> i32 {
        self.groups.iter().map(Group::length).sum()
    }

    fn height(&self) -> i32 {
        HEAD + self.length() + FOOT
    }

    fn figures(&self) -> impl Iterator<Item = &Spread> {
        self.groups.iter().flat_map(|group| &group.bars).map(|(_, spread)| spread)
    }

    fn draw(&self, sheet: &Sheet, area: &Area<'_>, range: Range<f64>) -> Result<()> {
        area.draw_text(&self.title, &bold(LABEL), (0, HEAD / 2))?;
        let (area, _) = area.split_vertically(self.height());
        let (start, scale) = (range.start, self.scale);
        let mut chart = ChartBuilder::on(&area)
            .margin_top(HEAD)
            .margin_right(8)
            .x_label_area_size(FOOT - 6)
            .y_label_area_size(LABELS)
            .build_cartesian_2d(range, f64::from(self.length())..0.0)?;
        chart
            .configure_mesh()
            .disable_y_mesh()
            .y_labels(0)
            .x_labels(6)
            .x_label_formatter(&|length| scale.label(*length))
            .x_desc(&self.axis)
            .axis_style(TRANSPARENT)
            .bold_line_style(GRID.stroke_width(1))
            .light_line_style(TRANSPARENT)
            .label_style(text(SMALL, FAINT, HPos::Left))
            .draw()?;

        let page = chart.plotting_area();
        let (left, top) = area.get_base_pixel();
        let place = |length: f64, y: f64| {
            let (x, y) = chart.backend_coord(&(length, y));
            (x - left, y - top)
        };
        let mut y = 0.0;
        for group in &self.groups {
            let (x, middle) = place(start, y + f64::from(group.length()) / 2.0);
            area.draw_text(&group.label, &text(LABEL, INK, HPos::Right), (x - 10, middle))?;
            y += f64::from(GAP) / 2.0;
            for (series, spread) in &group.bars {
                let color = sheet.series.get(*series).context("a bar is not in the legend")?.color.filled();
                let center = y + f64::from(BAR) / 2.0;
                let [min, median, max] =
                    [spread.min, spread.median, spread.max].map(|figure| scale.length(figure, start));
                if scale == Scale::Linear {
                    let corners = [(start, y + 1.5), (median, y + f64::from(BAR) - 1.5)];
                    page.draw(&Rectangle::new(corners, color))?;
                } else {
                    page.draw(&Circle::new((median, center), 5, color))?;
                }
                page.draw(&PathElement::new([(min, center), (max, center)], INK.mix(0.7).stroke_width(1)))?;
                let (x, middle) = place(max.max(median), center);
                let beside = if scale == Scale::Linear { 6 } else { 12 };
                area.draw_text(&number(spread.median), &text(SMALL, FAINT, HPos::Left), (x + beside, middle))?;
                y += f64::from(BAR);
            }
            y += f64::from(GAP) / 2.0;
        }
        if let Some(mark) = self.mark {
            let at = scale.length(mark, start);
            page.draw(&PathElement::new([(at, 0.0), (at, y)], INK.stroke_width(1)))?;
        }
        Ok(())
    }
}

impl Scale {
    /// Lengths that `figures` and `marks` take, with room for a label at the end.
    fn range(self, figures: &[Spread], marks: impl Iterator<Item = f64>) -> Range<f64> {
        let end = marks.fold(greatest(figures), f64::max);
        match self {
            Self::Linear => 0.0..end * (1.0 + ROOM),
            Self::Logarithmic => {
                let least = figures.iter().map(|spread| spread.min).filter(|figure| *figure > 0.0).fold(end, f64::min);
                least.log10().floor()..(end.log10() + ROOM).ceil()
            }
        }
    }

    /// Where `figure` is; `start` is the least.
    fn length(self, figure: f64, start: f64) -> f64 {
        match self {
            Self::Linear => figure.max(start),
            Self::Logarithmic => figure.log10().max(start),
        }
    }

    /// What stands at `length` on the axis; on a logarithmic one, only at powers of ten.
    fn label(self, length: f64) -> String {
        match self {
            Self::Linear => format!("{length}"),
            Self::Logarithmic if (length - length.round()).abs() < 1e-9 => format!("{}", 10_f64.powf(length.round())),
            Self::Logarithmic => String::new(),
        }
    }
}

impl Group {
    fn length(&self) -> i32 {
        // A few hundred at most.
        BAR * i32::try_from(self.bars.len()).unwrap_or(i32::MAX / BAR / 2) + GAP
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_ten_times_as_large_is_one_step_further_on_a_logarithmic_scale() {
        let figures = [0.4, 2_000.0].map(|figure| Spread { min: figure, median: figure, max: figure });
        let range = Scale::Logarithmic.range(&figures, std::iter::empty());
        assert_eq!(range, -1.0..4.0);
        let length = |figure| Scale::Logarithmic.length(figure, range.start);
        assert!((length(50.0) - length(5.0) - 1.0).abs() < 1e-9);
        assert_eq!((length(0.0), length(0.001)), (range.start, range.start), "nothing is left of the axis");
        let labels: Vec<String> = [-1.0, 0.0, 0.5, 3.0].map(|length| Scale::Logarithmic.label(length)).into();
        assert_eq!(labels, ["0.1", "1", "", "1000"]);
    }

    #[test]
    fn a_linear_scale_starts_at_0_and_has_room_for_all() {
        let figures = [2.0, 5.0].map(|figure| Spread { min: 1.0, median: figure, max: figure * 2.0 });
        let range = Scale::Linear.range(&figures, std::iter::once(1.0));
        assert!(range.start == 0.0 && range.end > 10.0, "{range:?}");
        assert!(Scale::Linear.range(&figures, std::iter::once(20.0)).end > 20.0);
        assert!(Scale::Linear.range(&[], std::iter::empty()).end > 0.0, "there is always a scale");
    }
}
