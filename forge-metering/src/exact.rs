//! Decimal arithmetic that is exact or says that it cannot be.
//!
//! `Decimal::checked_add` and `checked_mul` round in silence when the exact result needs more than 28 places; a ledger
//! that did so would not add up. Here such a result is `None`.

use rust_decimal::Decimal;

/// `a + b`.
pub(crate) fn add(a: Decimal, b: Decimal) -> Option<Decimal> {
    let (a, b) = (a.normalize(), b.normalize());
    let scale = a.scale().max(b.scale());
    // both are normal: where the wider one does not fit in 38 digits at this scale, no shorter form of the sum exists
    decimal(aligned(a, scale)?.checked_add(aligned(b, scale)?)?, scale)
}

/// `price × count ÷ 10^shift`; the division moves the point and nothing else.
pub(crate) fn times(price: Decimal, count: u64, shift: u32) -> Option<Decimal> {
    let price = price.normalize();
    decimal(price.mantissa().checked_mul(i128::from(count))?, price.scale().checked_add(shift)?)
}

fn aligned(d: Decimal, scale: u32) -> Option<i128> {
    d.mantissa().checked_mul(10_i128.checked_pow(scale.checked_sub(d.scale())?)?)
}

/// The shortest decimal of this value.
fn decimal(mut mantissa: i128, mut scale: u32) -> Option<Decimal> {
    while scale > 0 && mantissa % 10 == 0 {
        mantissa /= 10;
        scale -= 1;
    }
    Decimal::try_from_i128_with_scale(mantissa, scale).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn d(s: &str) -> Decimal {
        Decimal::from_str_exact(s).unwrap()
    }

    #[test]
    fn what_decimal_would_round_is_refused() {
        let (big, small) = (d("7922816251426433759354395033"), d("0.01"));
        assert!(big.checked_add(small).is_some(), "this is the trap: it rounds");
        assert_eq!(add(big, small), None);
        assert_eq!(times(d("0.1234567890123456"), u64::MAX, 3), None);
        assert_eq!(times(d("0.0025"), 1_234, 3), Some(d("0.003085")));
        assert_eq!(add(d("1"), d("-1.00")), Some(Decimal::ZERO));
    }

    proptest! {
        #[test]
        fn sums_agree_with_integers(cases in prop::collection::vec((any::<i32>(), 0_u32..=9), 0..50)) {
            let sum = cases.iter().try_fold(Decimal::ZERO, |s, (m, scale)| add(s, Decimal::new((*m).into(), *scale)));
            let nano: i128 = cases.iter().map(|(m, scale)| i128::from(*m) * 10_i128.pow(9 - scale)).sum();
            prop_assert_eq!(sum, Some(Decimal::from_i128_with_scale(nano, 9)));
        }

        #[test]
        fn products_agree_with_integers(m in 0_i64..1_000_000_000, scale in 0_u32..=9, n in any::<u32>()) {
            let product = times(Decimal::new(m, scale), n.into(), 3);
            let exact = Decimal::from_i128_with_scale(i128::from(m) * i128::from(n), scale + 3);
            prop_assert_eq!(product, Some(exact));
        }
    }
}
