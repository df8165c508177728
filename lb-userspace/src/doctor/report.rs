//! Findings, and how they are shown.

use std::fmt::{self, Write as _};

use anstyle::{AnsiColor, Style};
use serde::Serialize;

/// How good or bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Ok,
    /// Weir works, but worse than it could, or this could not be found out.
    Warn,
    /// Weir will not work.
    Fail,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The interface that it is about; `None` is the host.
    pub interface: Option<String>,
    /// What was looked at.
    pub check: &'static str,
    /// How good or bad it is.
    pub level: Level,
    /// What was found.
    pub found: String,
    /// What to do about it.
    pub advice: Option<String>,
}

/// All findings: those about the host first, then interface by interface.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The findings.
    pub findings: Vec<Finding>,
}

impl Finding {
    /// All is well.
    pub(super) fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self { interface: None, check, level: Level::Ok, found: found.into(), advice: None }
    }

    /// It works, but.
    pub(super) fn warn(check: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { level: Level::Warn, advice: Some(advice.into()), ..Self::ok(check, found) }
    }

    /// It does not work.
    pub(super) fn fail(check: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { level: Level::Fail, advice: Some(advice.into()), ..Self::ok(check, found) }
    }
}

impl Report {
    /// The worst level of all findings.
    #[must_use]
    pub fn worst(&self) -> Level {
        self.findings.iter().map(|finding| finding.level).max().unwrap_or(Level::Ok)
    }

    /// Exit code for a program that prints this: 1 if something fails, else 0.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        u8::from(self.worst() == Level::Fail)
    }

    /// The report with terminal colours, whatever it is written to; [`fmt::Display`] is without.
    ///
    /// Print it through `anstream`, which takes the colours out again where they don't belong.
    #[must_use]
    pub fn coloured(&self) -> String {
        let mut text = String::new();
        // Writing to a string can't fail.
        let _ = self.write(&mut text, true);
        text
    }

    /// Prints the report to standard output, in colour if that is a terminal that wants them.
    pub fn print(&self) -> std::io::Result<()> {
        use std::io::Write as _;
        anstream::stdout().lock().write_all(self.coloured().as_bytes())
    }

    fn write(&self, out: &mut impl fmt::Write, coloured: bool) -> fmt::Result {
        let paint = |style: Style| if coloured { style } else { Style::new() };
        let width = self.findings.iter().map(|finding| finding.check.len()).max().unwrap_or(0);
        let mut interface = None;
        for finding in &self.findings {
            if interface != Some(&finding.interface) {
                let gap = if interface.is_some() { "\n" } else { "" };
                let bold = paint(Style::new().bold());
                writeln!(out, "{gap}{bold}{}{bold:#}", finding.interface.as_deref().unwrap_or("host"))?;
                interface = Some(&finding.interface);
            }
            let (label, colour) = match finding.level {
                Level::Ok => ("ok  ", AnsiColor::Green),
                Level::Warn => ("warn", AnsiColor::Yellow),
                Level::Fail => ("FAIL", AnsiColor::Red),
            };
            let colour = paint(colour.on_default());
            writeln!(out, "  {colour}{label}{colour:#}  {:width$}  {}", finding.check, finding.found)?;
            if let Some(advice) = &finding.advice {
                writeln!(out, "        {:width$}  → {advice}", "")?;
            }
        }
        writeln!(out, "\n{}", self.summary())
    }

    fn summary(&self) -> String {
        let count = |level| self.findings.iter().filter(|finding| finding.level == level).count();
        let mut text = format!("{} ok", count(Level::Ok));
        for (level, one, many) in [(Level::Warn, "warning", "warnings"), (Level::Fail, "failure", "failures")] {
            let number = count(level);
            let _ = write!(text, ", {number} {}", if number == 1 { one } else { many });
        }
        text
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(f, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let on_eth0 = |finding| Finding { interface: Some("eth0".into()), ..finding };
        Report {
            findings: vec![
                Finding::ok("kernel", "6.18.1"),
                Finding::warn("JIT", "off", "sysctl -w net.core.bpf_jit_enable=1"),
                on_eth0(Finding::fail("link", "down", "ip link set eth0 up")),
            ],
        }
    }

    #[test]
    fn the_table_is_aligned_and_grouped() {
        let expected = "\
host
  ok    kernel  6.18.1
  warn  JIT     off
                → sysctl -w net.core.bpf_jit_enable=1

eth0
  FAIL  link    down
                → ip link set eth0 up

1 ok, 1 warning, 1 failure
";
        assert_eq!(report().to_string(), expected);
    }

    #[test]
    fn colours_are_an_addition() {
        let coloured = report().coloured();
        assert!(coloured.contains("\u{1b}[31mFAIL"));
        assert_eq!(anstream::adapter::strip_str(&coloured).to_string(), report().to_string());
    }

    #[test]
    fn only_failures_fail() {
        let mut report = report();
        assert_eq!((report.worst(), report.exit_code()), (Level::Fail, 1));
        report.findings.pop();
        assert_eq!((report.worst(), report.exit_code()), (Level::Warn, 0));
        assert_eq!(Report::default().exit_code(), 0);
    }

    #[test]
    fn programs_can_read_it() {
        let json = serde_json::to_value(report()).unwrap();
        assert_eq!(json["findings"][2]["interface"], "eth0");
        assert_eq!(json["findings"][2]["level"], "fail");
        assert_eq!(json["findings"][0]["advice"], serde_json::Value::Null);
    }
}
