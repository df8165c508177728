//! How many slots a service has.

use super::field;

/// Most slots of all services: 1 GiB of slot table.
pub const MOST: u32 = 1 << 27;

/// What is chosen from where the operator didn't choose. The smallest is where losing one of equal backends moves hardly
/// any slot that it need not ([`lb_common::fill::STEADY_SLOTS`]), and has room for more backends.
const DEFAULTS: [u32; 4] = [1 << 14, 1 << 16, 1 << 18, 1 << 20];

/// For the share of the lightest backend to be right within 1 %: shares are exact to a slot.
const LEAST_PER_UNIT: u64 = 100;

/// By default, so that a few backends can be added later.
const USUAL_PER_UNIT: u64 = 128;

/// The slots of a service whose backends have `weights`: what it asks for, or what suits it.
///
/// The largest default is enough for any weights: a service that gets it can't be refused when it is read again.
pub fn validate(asked: Option<i64>, weights: &[u16]) -> Result<u32, String> {
    let units = units(weights);
    let Some(asked) = asked else { return Ok(default(units)) };
    let slots = field::number(asked, 2..=MOST)?;
    let least = (units * LEAST_PER_UNIT).min(DEFAULTS[DEFAULTS.len() - 1].into());
    if u64::from(slots) < least {
        return Err(format!(
            "expected at least {least}, so that the lightest backend gets {LEAST_PER_UNIT}, found {slots}; {} is a \
             good number",
            default(units)
        ));
    }
    Ok(slots)
}

/// How many times the lightest backend's share all of them have.
fn units(weights: &[u16]) -> u64 {
    let sum: u64 = weights.iter().copied().map(u64::from).sum();
    let lightest = weights.iter().copied().filter(|&weight| weight > 0).min();
    lightest.map_or(0, |lightest| sum.div_ceil(lightest.into()))
}

fn default(units: u64) -> u32 {
    let enough = |slots: &u32| u64::from(*slots) >= units * USUAL_PER_UNIT;
    DEFAULTS.into_iter().find(enough).unwrap_or(DEFAULTS[DEFAULTS.len() - 1])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_choose_the_default() {
        let slots = |weights: &[u16]| validate(None, weights).unwrap();
        assert_eq!(slots(&[]), 16_384);
        assert_eq!(slots(&[0, 0]), 16_384);
        assert_eq!(slots(&[1; 128]), 16_384);
        assert_eq!(slots(&[1; 129]), 65_536);
        assert_eq!(slots(&[1000, 999, 998, 997, 0]), 16_384, "hardly more than 4 units");
        assert_eq!(slots(&[1000, 5]), 65_536, "201 units");
        assert_eq!(slots(&[1; 2048]), 262_144);
        assert_eq!(slots(&[1; 2049]), 1_048_576);
        assert_eq!(slots(&vec![1000; 10_000]), 1_048_576, "10,000 x 128 fits nowhere");
    }

    #[test]
    fn the_lightest_backend_decides_what_is_enough() {
        assert_eq!(validate(Some(1100), &[100, 10]), Ok(1100));
        assert!(validate(Some(1099), &[100, 10]).is_err());
        assert_eq!(validate(Some(300), &[999, 1000]), Ok(300), "2.001 units, rounded up");
        assert!(validate(Some(299), &[999, 1000]).is_err());
    }

    #[test]
    fn every_default_is_accepted_when_asked_for() {
        for weights in [vec![], vec![1; 10], vec![999; 40], vec![1000, 999, 998, 997], (1..=1000).collect()] {
            let default = validate(None, &weights).unwrap();
            assert_eq!(validate(Some(default.into()), &weights), Ok(default));
        }
    }
}
