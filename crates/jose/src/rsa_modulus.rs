//! What an RSA public key must be.

use crate::KeyError;

/// Modulus and exponent are big-endian without leading zeros.
pub(crate) fn check(modulus: &[u8], exponent: &[u8]) -> Result<(), KeyError> {
    let bits = bits(modulus);
    if !(2048..=4096).contains(&bits) {
        return Err(KeyError::RsaSize { found_bits: bits });
    }
    if modulus.last().is_none_or(|last| last % 2 == 0) {
        return Err(KeyError::RsaModulus);
    }
    // 33 bits are also what the primitive takes: a longer exponent only makes each check dear.
    let exponent = match exponent.len() {
        1..=5 => exponent.iter().fold(0_u64, |value, byte| value << 8 | u64::from(*byte)),
        _ => return Err(KeyError::RsaExponent),
    };
    if exponent % 2 == 0 || !(65_537..1 << 33).contains(&exponent) {
        return Err(KeyError::RsaExponent);
    }
    if is_roca(modulus) {
        return Err(KeyError::RsaRoca);
    }
    Ok(())
}

fn bits(number: &[u8]) -> usize {
    number.first().map_or(0, |first| number.len() * 8 - first.leading_zeros() as usize)
}

/// The fingerprint of the Infineon library whose keys can be factored (CVE-2017-15361): both primes
/// are 65537^a modulo the product of the first 126 primes (225 in the largest keys), so the modulus lies
/// in the group that 65537 generates modulo each of them. A good key does so for all with a probability
/// far below 2^-100.
///
/// Source: Nemec and others, "The Return of Coppersmith's Attack", section 3.3.
fn is_roca(modulus: &[u8]) -> bool {
    small_odd_primes().all(|prime| {
        let remainder = modulus.iter().fold(0, |value, byte| (value << 8 | u32::from(*byte)) % prime);
        let mut power = 1;
        loop {
            if power == remainder {
                return true;
            }
            power = power * 65_537 % prime;
            if power == 1 {
                return false;
            }
        }
    })
}

/// The odd ones of the first 126 primes.
fn small_odd_primes() -> impl Iterator<Item = u32> {
    (3..=701).step_by(2).filter(|n| (3..).step_by(2).take_while(|d| d * d <= *n).all(|d| n % d != 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fingerprint_stands_on_the_first_126_primes() {
        assert_eq!(small_odd_primes().count(), 125);
        assert_eq!(small_odd_primes().last(), Some(701));
    }
}
