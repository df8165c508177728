//! Numbers and times for people.

use std::time::Duration;

/// Below this a number is shown to the last digit.
const EXACT_BELOW: u64 = 1_000_000;

/// `1 service`, `2 services`.
pub fn several(number: u64, thing: &str) -> String {
    format!("{} {thing}{}", exact(number), if number == 1 { "" } else { "s" })
}

/// `1,234,567`.
pub fn exact(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at != 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `999,999`, then `1.00 M`.
pub fn count(number: u64) -> String {
    if number < EXACT_BELOW { exact(number) } else { scaled(float(number), "") }
}

/// `12 B`, `1.50 kB`, `2.00 GB`: powers of 1000.
pub fn bytes(number: u64) -> String {
    scaled(float(number), "B")
}

/// `0`, `0.50`, `12.0 k`: events per second.
pub fn rate(per_second: f64) -> String {
    scaled(per_second, "")
}

/// `1.20 Gbit/s`, from bytes per second.
pub fn bit_rate(bytes_per_second: f64) -> String {
    scaled(bytes_per_second * 8.0, "bit/s")
}

/// `33.3 %`.
pub fn percent(share: f64) -> String {
    format!("{share:.1} %")
}

/// What `part` is of `whole`, percent; nothing of nothing is 0.
pub fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { 100.0 * float(part) / float(whole) }
}

/// The two largest units: `3h 12m`, `5m`, `45s`.
pub fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let units = [(seconds / 86_400, "d"), (seconds / 3600 % 24, "h"), (seconds / 60 % 60, "m"), (seconds % 60, "s")];
    let largest = units.iter().position(|&(number, _)| number != 0).unwrap_or(units.len() - 1);
    let shown: Vec<_> = units[largest..]
        .iter()
        .take(2)
        .enumerate()
        .filter(|&(at, &(number, _))| at == 0 || number != 0)
        .map(|(_, (number, unit))| format!("{number}{unit}"))
        .collect();
    shown.join(" ")
}

/// Every unit, so that nothing is lost: `1d`, `1m 30s`, `500ms`.
pub fn span(span: Duration) -> String {
    let (seconds, millis) = (span.as_secs(), u64::from(span.subsec_millis()));
    let units = [
        (seconds / 86_400, "d"),
        (seconds / 3600 % 24, "h"),
        (seconds / 60 % 60, "m"),
        (seconds % 60, "s"),
        (millis, "ms"),
    ];
    let shown: Vec<_> =
        units.iter().filter(|(number, _)| *number != 0).map(|(number, unit)| format!("{number}{unit}")).collect();
    if shown.is_empty() { "0s".to_owned() } else { shown.join(" ") }
}

/// Three digits and a power of 1000; whole numbers below 1000 have no decimals.
fn scaled(number: f64, unit: &str) -> String {
    const PREFIXES: [&str; 7] = ["", "k", "M", "G", "T", "P", "E"];
    let mut number = number;
    let mut prefixes = PREFIXES.iter().peekable();
    let mut prefix = "";
    while let Some(next) = prefixes.next() {
        prefix = next;
        // From 999.5 on three digits don't do.
        if number < 999.5 || prefixes.peek().is_none() {
            break;
        }
        number /= 1000.0;
    }
    let decimals = match number {
        n if prefix.is_empty() && n.fract() == 0.0 => 0,
        n if n < 9.995 => 2,
        n if n < 99.95 => 1,
        _ => 0,
    };
    format!("{number:.decimals$} {prefix}{unit}").trim_end().to_owned()
}

#[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
fn float(number: u64) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_by_three() {
        let cases = [(0, "0"), (999, "999"), (1000, "1,000"), (65_537, "65,537"), (1_000_000, "1,000,000")];
        for (number, expected) in cases {
            assert_eq!(exact(number), expected);
        }
    }

    #[test]
    fn large_numbers_have_three_digits_and_a_prefix() {
        let cases = [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.00 kB"),
            (1536, "1.54 kB"),
            (99_949, "99.9 kB"),
            (99_950, "100 kB"),
            (999_499, "999 kB"),
            (999_500, "1.00 MB"),
            (2_000_000_000, "2.00 GB"),
            (u64::MAX, "18.4 EB"),
        ];
        for (number, expected) in cases {
            assert_eq!(bytes(number), expected, "{number}");
        }
        assert_eq!(count(999_999), "999,999");
        assert_eq!(count(1_000_000), "1.00 M");
    }

    #[test]
    fn rates_show_fractions_of_small_numbers() {
        let cases = [(0.0, "0"), (0.5, "0.50"), (12.0, "12"), (12.34, "12.3"), (123.4, "123"), (12_345.0, "12.3 k")];
        for (per_second, expected) in cases {
            assert_eq!(rate(per_second), expected);
        }
        assert_eq!(bit_rate(125_000_000.0), "1.00 Gbit/s");
    }

    #[test]
    fn durations_show_two_units() {
        let cases = [
            (0, "0s"),
            (59, "59s"),
            (60, "1m"),
            (3_599, "59m 59s"),
            (11_520, "3h 12m"),
            (90_000, "1d 1h"),
            (86_460, "1d"),
        ];
        for (seconds, expected) in cases {
            assert_eq!(duration(Duration::from_secs(seconds)), expected);
        }
    }

    #[test]
    fn spans_show_every_unit() {
        let cases = [
            (0, "0s"),
            (500, "500ms"),
            (10_000, "10s"),
            (90_500, "1m 30s 500ms"),
            (86_400_000, "1d"),
            (90_061_001, "1d 1h 1m 1s 1ms"),
            (8 * 7 * 86_400_000, "56d"),
        ];
        for (millis, expected) in cases {
            assert_eq!(span(Duration::from_millis(millis)), expected);
        }
    }

    #[test]
    fn nothing_of_nothing_is_no_share() {
        assert_eq!(percent(share(0, 0)), "0.0 %");
        assert_eq!(percent(share(1, 3)), "33.3 %");
    }
}
