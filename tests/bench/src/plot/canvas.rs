//! What all plots have in common: colours, fonts, the title and the legend above, the caption below.

use anyhow::Result;
use plotters::{
    backend::SVGBackend,
    coord::Shift,
    drawing::{DrawingArea, IntoDrawingArea as _},
    element::Rectangle,
    style::{
        Color as _, FontFamily, FontStyle, IntoFont as _, RGBColor, TextStyle,
        text_anchor::{HPos, Pos, VPos},
    },
};

use crate::{machine::Machine, spread::Spread};

/// Where plots are drawn.
pub type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// The page: opaque, so that it can be read on a dark one too.
const PAGE: RGBColor = RGBColor(255, 255, 255);
/// Around the page.
const EDGE: RGBColor = RGBColor(208, 215, 222);
/// Titles and labels.
pub const INK: RGBColor = RGBColor(36, 41, 47);
/// What matters less.
pub const FAINT: RGBColor = RGBColor(101, 109, 118);
/// Lines of the grid.
pub const GRID: RGBColor = RGBColor(234, 238, 242);

/// The balancer. Colours are those of Okabe and Ito, which people tell apart who see few.
pub const BLUE: RGBColor = RGBColor(0, 114, 178);
/// A second balancer, or mode.
pub const ORANGE: RGBColor = RGBColor(230, 159, 0);
/// A third.
pub const GREEN: RGBColor = RGBColor(0, 158, 115);
/// A fourth.
pub const VERMILION: RGBColor = RGBColor(213, 94, 0);
/// A fifth.
pub const SKY: RGBColor = RGBColor(86, 180, 233);
/// A sixth.
pub const PURPLE: RGBColor = RGBColor(204, 121, 167);
/// A floor.
pub const GREY: RGBColor = RGBColor(140, 149, 159);
/// Another floor.
pub const PALE: RGBColor = RGBColor(196, 203, 210);

/// Pixels from the page's edge to what is on it.
const MARGIN: i32 = 24;
/// Pixels above the legend: the title.
const TOP: i32 = 48;
/// Pixels of a line of the legend.
const ENTRY: i32 = 24;
/// Pixels between two lines of the caption.
const LINE: i32 = 19;
/// Pixels between the body and the caption.
const SPACE: i32 = 12;

/// Sizes of text, in what the drawing library calls points: 1.24 of them are a pixel.
pub const TITLE: i32 = 22;
/// Titles of panels and names in the legend.
pub const LABEL: i32 = 16;
/// Numbers and captions.
pub const SMALL: i32 = 14;

/// What is around a plot.
#[derive(Clone, Debug)]
pub struct Sheet {
    /// What it is about.
    pub title: String,
    /// What is compared, for the legend.
    pub series: Vec<Series>,
    /// How it was measured, and where and when, in lines.
    pub caption: Vec<String>,
}

/// What is compared.
#[derive(Clone, Debug)]
pub struct Series {
    /// Name in the legend.
    pub name: String,
    /// Its colour.
    pub color: RGBColor,
}

impl Series {
    /// A series called `name`.
    #[must_use]
    pub fn new(name: impl Into<String>, color: RGBColor) -> Self {
        Self { name: name.into(), color }
    }
}

/// A line of a caption: where and when something was measured.
#[must_use]
pub fn place(machine: &Machine) -> String {
    format!("{}, kernel {}, {}", machine.cpu, machine.kernel, machine.date)
}

/// `text` of `size`.
#[must_use]
pub fn text(size: i32, color: RGBColor, horizontal: HPos) -> TextStyle<'static> {
    (FontFamily::SansSerif, size).into_font().color(&color).pos(Pos::new(horizontal, VPos::Center))
}

/// The same in bold.
#[must_use]
pub fn bold(size: i32) -> TextStyle<'static> {
    (FontFamily::SansSerif, size, FontStyle::Bold).into_font().color(&INK).pos(Pos::new(HPos::Left, VPos::Center))
}

/// A pleasant place for a figure of `value` to be cut off: three digits that count.
#[must_use]
pub fn number(value: f64) -> String {
    let size = value.abs();
    let digits = if size >= 99.95 {
        0
    } else if size >= 9.995 {
        1
    } else {
        2
    };
    format!("{value:.digits$}")
}

/// The greatest of `figures`; 1 without any above 0.
#[must_use]
pub fn greatest(figures: &[Spread]) -> f64 {
    let greatest = figures.iter().map(|spread| spread.max).fold(0.0, f64::max);
    if greatest > 0.0 { greatest } else { 1.0 }
}

impl Sheet {
    /// Draws it `width` pixels wide around a body of `height` pixels, which `body` draws.
    ///
    /// # Errors
    /// Something can't be drawn.
    pub fn draw(&self, width: i32, height: i32, body: impl FnOnce(&Area<'_>) -> Result<()>) -> Result<String> {
        let legend = self.legend(width);
        let head = TOP + ENTRY * (1 + legend.last().map_or(0, |(_, line)| *line)) + SPACE;
        let foot = SPACE + LINE * i32::try_from(self.caption.len())? + MARGIN / 2;
        let total = head + height + foot;
        let mut svg = String::new();
        {
            let page =
                SVGBackend::with_string(&mut svg, (width.unsigned_abs(), total.unsigned_abs())).into_drawing_area();
            page.fill(&PAGE)?;
            page.draw(&Rectangle::new([(0, 0), (width - 1, total - 1)], EDGE.stroke_width(1)))?;
            page.draw_text(&self.title, &bold(TITLE), (MARGIN, 28))?;
            for (series, (x, line)) in self.series.iter().zip(legend) {
                let y = TOP + ENTRY * line + ENTRY / 2;
                page.draw(&Rectangle::new([(x, y - 5), (x + 11, y + 5)], series.color.filled()))?;
                page.draw_text(&series.name, &text(LABEL, INK, HPos::Left), (x + 18, y))?;
            }
            for (line, y) in
                self.caption.iter().zip((head + height + SPACE + LINE / 2..).step_by(LINE.unsigned_abs() as usize))
            {
                page.draw_text(line, &text(SMALL, FAINT, HPos::Left), (MARGIN, y))?;
            }
            body(&page.margin(head, foot, MARGIN, MARGIN))?;
            page.present()?;
        }
        Ok(svg)
    }

    /// Where each entry of the legend begins, and in which line.
    fn legend(&self, width: i32) -> Vec<(i32, i32)> {
        let (mut x, mut line) = (MARGIN, 0);
        let place = |series: &Series| {
            // There are no fonts here to measure with: an average letter is half as wide as it is high.
            let length = 44 + 7 * i32::try_from(series.name.chars().count()).unwrap_or(width);
            if x > MARGIN && x + length > width {
                (x, line) = (MARGIN, line + 1);
            }
            let begin = x;
            x += length;
            (begin, line)
        };
        self.series.iter().map(place).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_legend_that_is_too_long_has_another_line() {
        let series = ["ten letter", "ten letter", "ten letter"].map(|name| Series::new(name, BLUE)).into();
        let sheet = Sheet { title: String::new(), series, caption: Vec::new() };
        assert_eq!(sheet.legend(400), [(24, 0), (138, 0), (252, 0)]);
        assert_eq!(sheet.legend(300), [(24, 0), (138, 0), (24, 1)]);
        assert_eq!(sheet.legend(30), [(24, 0), (24, 1), (24, 2)]);
    }

    #[test]
    fn numbers_have_three_digits_that_count() {
        let numbers = [0.0, 0.123, 9.994, 9.996, 12.34, 99.94, 99.96, 1234.5].map(number);
        assert_eq!(numbers, ["0.00", "0.12", "9.99", "10.0", "12.3", "99.9", "100", "1234"]);
    }
}
