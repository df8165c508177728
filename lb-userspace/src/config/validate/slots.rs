//! How many slots a service has.

use super::field;

/// Most slots of all services: 1 GiB of slot table.
pub const MOST: u32 = 1 << 27;

/// What is chosen from where the operator didn't choose: the largest primes below the powers of two from 2^10 to 2^20.
const DEFAULTS: [u32; 6] = [1021, 4093, 16_381, 65_521, 262_139, 1_048_573];

/// No service gets fewer by default, so that backends can be added later.
const SMALLEST_DEFAULT: u32 = DEFAULTS[1];

/// For the shares of the backends to be right within about 1 % (Eisenbud et al., "Maglev", NSDI 2016, section 5.3).
const LEAST_PER_WEIGHT: u64 = 100;

/// By default, so that weights can be changed later.
const USUAL_PER_WEIGHT: u64 = 400;

/// The slots of a service whose backends have `weights`: what it asks for, or what suits it.
///
/// The largest default is enough for any weights: a service that gets it can't be refused when it is read again.
pub fn validate(asked: Option<i64>, weights: &[u16]) -> Result<u32, String> {
    let units = units(weights);
    let Some(asked) = asked else { return Ok(default(units)) };
    let slots = field::number(asked, 2..=MOST)?;
    let least = (units * LEAST_PER_WEIGHT).min(DEFAULTS[DEFAULTS.len() - 1].into());
    if u64::from(slots) < least {
        Err(format!(
            "expected at least {least}, {LEAST_PER_WEIGHT} for each of the {units} units of weight, found {slots}; \
             {} is a good number",
            default(units)
        ))
    } else if !is_prime(slots) {
        let next = (slots..=MOST).find(|&n| is_prime(n)).map_or_else(String::new, |n| format!("; the next is {n}"));
        Err(format!("expected a prime, found {slots}{next}"))
    } else {
        Ok(slots)
    }
}

/// The sum of the weights in units of their greatest common divisor.
fn units(weights: &[u16]) -> u64 {
    let divisor = weights.iter().copied().fold(0, gcd).max(1);
    weights.iter().map(|weight| u64::from(weight / divisor)).sum()
}

fn default(units: u64) -> u32 {
    let enough = |slots: &u32| *slots >= SMALLEST_DEFAULT && u64::from(*slots) >= units * USUAL_PER_WEIGHT;
    DEFAULTS.into_iter().find(enough).unwrap_or(DEFAULTS[DEFAULTS.len() - 1])
}

fn gcd(a: u16, b: u16) -> u16 {
    if b == 0 { a } else { gcd(b, a % b) }
}

fn is_prime(n: u32) -> bool {
    let divisors = (2..).take_while(|divisor| divisor * divisor <= n);
    n >= 2 && divisors.into_iter().all(|divisor: u32| !n.is_multiple_of(divisor))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The primes below `limit` by the sieve of Eratosthenes.
    fn sieve(limit: usize) -> Vec<bool> {
        let mut prime = vec![true; limit];
        prime[..2].fill(false);
        for n in 2..limit {
            if prime[n] {
                (2 * n..limit).step_by(n).for_each(|multiple| prime[multiple] = false);
            }
        }
        prime
    }

    #[test]
    fn primes_are_those_of_a_sieve() {
        let sieve = sieve(1 << 17);
        for (n, prime) in (0..).zip(&sieve) {
            assert_eq!(is_prime(n), *prime, "{n}");
        }
        assert!(is_prime(134_217_689) && !is_prime(MOST));
    }

    #[test]
    fn defaults_are_the_largest_primes_below_powers_of_two() {
        let sieve = sieve(1 << 20);
        for (slots, exponent) in DEFAULTS.into_iter().zip((10..).step_by(2)) {
            assert_eq!((0..1 << exponent).rev().find(|&n| sieve[n]), Some(slots as usize));
        }
    }

    #[test]
    fn weights_choose_the_default() {
        let slots = |weights: &[u16]| validate(None, weights).unwrap();
        assert_eq!(slots(&[]), 4093);
        assert_eq!(slots(&[0, 0]), 4093);
        assert_eq!(slots(&[1; 10]), 4093);
        assert_eq!(slots(&[1; 11]), 16_381);
        assert_eq!(slots(&[1000, 500, 0]), 4093, "2 + 1 units");
        assert_eq!(slots(&[7, 4]), 16_381);
        assert_eq!(slots(&[1; 41]), 65_521, "400 x 41 > 16381");
        assert_eq!(slots(&[1; 655]), 262_139, "400 x 655 = 262000");
        assert_eq!(slots(&[1; 656]), 1_048_573);
        assert_eq!(slots(&[1000, 999, 998, 997]), 1_048_573, "3994 x 400 fits nowhere");
    }

    #[test]
    fn every_default_is_accepted_when_asked_for() {
        for weights in [vec![], vec![1; 10], vec![999; 40], vec![1000, 999, 998, 997], (1..=1000).collect()] {
            let default = validate(None, &weights).unwrap();
            assert_eq!(validate(Some(default.into()), &weights), Ok(default));
        }
    }
}
