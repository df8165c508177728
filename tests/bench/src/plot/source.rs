//! Which benchmark a file is a report of.

use std::{fs, path::Path};

use anyhow::{Context as _, Result, bail};
use serde::{
    Deserialize,
    de::{DeserializeOwned, IgnoredAny},
};

use super::{Plot, control, packet, peers, wire};
use crate::{packet::report as packet_report, peers::report as peers_report, wire::report as wire_report};

/// What tells a report's benchmark.
#[derive(Deserialize)]
struct Head {
    /// Its name.
    benchmark: Option<String>,
    /// What only reports of the packet benchmark have.
    packets: Option<IgnoredAny>,
    /// What only reports of the comparison with other balancers have.
    cpus: Option<IgnoredAny>,
}

impl Head {
    fn benchmark(&self) -> &str {
        match (&self.benchmark, &self.packets, &self.cpus) {
            (Some(name), ..) => name,
            (_, Some(_), _) => packet_report::BENCHMARK,
            (_, _, Some(_)) => peers_report::BENCHMARK,
            (None, None, None) => "control",
        }
    }
}

/// The plots of the report in the file at `path`.
///
/// # Errors
/// The file can't be read, is no report, or has nothing of what is plotted.
pub fn plots(path: &Path) -> Result<Vec<Plot>> {
    let text = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    of(&text).with_context(|| path.display().to_string())
}

/// The plots of the report that `text` is.
///
/// # Errors
/// It is none, or has nothing of what is plotted.
pub fn of(text: &[u8]) -> Result<Vec<Plot>> {
    let head: Head = parse(text)?;
    match head.benchmark() {
        packet_report::BENCHMARK => packet::plots(&parse(text)?),
        wire_report::BENCHMARK => wire::plots(&parse(text)?),
        peers_report::BENCHMARK => peers::plots(&parse(text)?),
        "control" => control::plots(&parse(text)?),
        other => bail!("there are no plots of the benchmark {other:?}"),
    }
}

fn parse<T: DeserializeOwned>(text: &[u8]) -> Result<T> {
    serde_json::from_slice(text).context("this is no report of a benchmark")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn spread(median: f64) -> Value {
        json!({ "min": median * 0.5, "median": median, "max": median * 2.0 })
    }

    fn report(rows: &Value, more: Value) -> Value {
        let machine = json!({ "date": "2026-11-20T12:00:00Z", "kernel": "6.18", "cpu": "A CPU & Co" });
        let mut report = json!({ "machine": machine, "rounds": 5, "rows": rows });
        if let (Some(report), Value::Object(more)) = (report.as_object_mut(), more) {
            report.extend(more);
        }
        report
    }

    fn packet() -> Value {
        let program = |name: &str, net: f64| {
            let (gross, net, ratio) = (spread(net + 50.0), spread(net), spread(net / 10.0));
            json!({ "program": name, "gross": gross, "net": net, "ratio": ratio })
        };
        let programs = json!([program("parse + fixed IPIP", 10.0), program("weir", 123.4)]);
        let rows = json!([{ "name": "ipip/v4-in-v4/ack/100x100/512k", "programs": programs }]);
        report(&rows, json!({ "packets": 1000 }))
    }

    fn wire() -> Value {
        let figures = json!({
            "program": "weir", "sent": spread(3e6), "arrived": spread(3e6), "cpus": spread(1.0),
            "arrived_per_cpu": spread(3.21e6), "ratio": spread(0.7), "lost_before": 0, "lost_behind": 0, "run_time": 90.0
        });
        let rows = json!([{ "name": "nat/v6/ack/1x100/64k", "programs": [figures] }]);
        report(&rows, json!({ "benchmark": "wire", "seconds": 1.0 }))
    }

    fn peers() -> Value {
        let ratio = json!({ "to": "haproxy", "rate": spread(1.5), "p99": spread(0.4), "per_cpu": spread(5.67) });
        let as_asked = json!({ "to": "direct", "rate": spread(777.0), "p99": spread(1.0) });
        let rows = json!([
            { "name": "close/weir-nat", "load": "close", "peer": "weir-nat", "figures": { "ratios": [ratio] } },
            { "name": "close/nginx", "load": "close", "peer": "nginx", "error": "7 requests failed" },
            { "name": "paced/weir-nat", "load": "paced", "peer": "weir-nat", "figures": { "ratios": [as_asked] } }
        ]);
        report(&rows, json!({ "cpus": {}, "seconds": 3 }))
    }

    fn control() -> Value {
        let figure = |what: &str, unit: &str, figure| json!({ "what": what, "unit": unit, "spread": spread(figure) });
        let figures =
            json!([figure("request", "s", 0.0128), figure("floor", "ms", 0.5), figure("slots", "slots", 777.0)]);
        report(&json!([{ "name": "weight/1000x100", "figures": figures }]), json!({}))
    }

    fn drawn(report: &Value) -> Vec<Plot> {
        of(report.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn every_report_is_drawn_with_its_figures_and_where_they_are_from() {
        for (name, report, texts) in [
            ("packet", packet(), &["12.3", "Weir, ipip", "512k", "cargo xtask bench packet"][..]),
            ("wire", wire(), &["3.21", "nat, v6", "64k flows", "cargo xtask bench wire"]),
            ("peers", peers(), &["5.67", "Weir, nat", "close", "multiples of HAProxy", "cargo xtask bench peers"]),
            ("control", control(), &["12.8", "0.50", "weight/1000x100", "cargo xtask bench control"]),
        ] {
            let plots = drawn(&report);
            assert!(plots.iter().all(|plot| plot.name.starts_with(name)), "{name}: {plots:?}");
            let svg: String = plots.iter().map(|plot| plot.svg.as_str()).collect();
            for text in texts {
                assert!(svg.contains(text), "{name}: no {text} in {svg}");
            }
            for plot in &plots {
                let place = "A CPU &amp; Co, kernel 6.18, 2026-11-20T12:00:00Z";
                assert!(plot.svg.contains(place), "{name}: {}", plot.svg);
            }
            assert!(!svg.contains("777"), "{name}: what says nothing is drawn");
        }
        let names: Vec<&str> = drawn(&packet()).iter().map(|plot| plot.name).collect();
        assert_eq!(names, ["packet-flows.svg", "packet-ratios.svg"]);
    }

    #[test]
    fn a_report_may_say_what_it_is_of() {
        for (name, mut report) in [("packet", packet()), ("peers", peers()), ("control", control())] {
            let unnamed = drawn(&report);
            report["benchmark"] = json!(name);
            assert_eq!(drawn(&report), unnamed, "{name}");
        }
        let mut other = packet();
        other["benchmark"] = json!("coffee");
        let error = of(other.to_string().as_bytes()).unwrap_err().to_string();
        assert_eq!(error, "there are no plots of the benchmark \"coffee\"");
    }

    #[test]
    fn what_has_nothing_to_draw_is_an_error() {
        for mut report in [packet(), wire(), peers(), control()] {
            report["rows"] = json!([]);
            assert!(of(report.to_string().as_bytes()).is_err(), "{report}");
        }
        for text in ["", "[]", "{}", "no JSON", "{\"packets\": 3}"] {
            let error = of(text.as_bytes()).unwrap_err().to_string();
            assert_eq!(error, "this is no report of a benchmark", "{text}");
        }
        assert!(plots(Path::new("/no such report")).is_err());
    }
}
