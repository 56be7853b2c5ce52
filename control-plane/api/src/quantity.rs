//! Quantities of resources: `100m`, `1.5Gi`, `1e3`. Arithmetic is exact, in billionths.

use std::cmp::Ordering;
use std::fmt;
use std::ops::{Add, Mul, Sub};
use std::str::FromStr;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity as WireQuantity;

const NANO: i128 = 1_000_000_000;
/// The largest magnitude, as upstream: 2^63 - 1 units.
const MAX: i128 = (i64::MAX as i128) * NANO;

/// How a quantity was written, and is written again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// `k`, `M`, `m` and so on.
    #[default]
    DecimalSi,
    /// `Ki`, `Mi` and so on.
    BinarySi,
    /// `e3`.
    DecimalExponent,
}

/// Why a text is no quantity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    /// Not a number with an optional suffix.
    #[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
    Format,
    /// A suffix nobody knows.
    #[error("unable to parse quantity's suffix")]
    Suffix,
    /// More than one dot, or no digit.
    #[error("unable to parse numeric part of quantity")]
    Numeric,
}

/// An exact fixed-point number of at most 2^63-1 units, in steps of one billionth.
#[derive(Clone, Copy, Debug, Default)]
pub struct Quantity {
    nanos: i128,
    format: Format,
}

impl Quantity {
    /// Reads a quantity. What is finer than a billionth is rounded away from zero, what is too large is capped.
    pub fn parse(text: &str) -> Result<Self, QuantityError> {
        if text.is_empty() {
            return Err(QuantityError::Format);
        }
        let (negative, rest) = match text.as_bytes()[0] {
            b'-' => (true, &text[1..]),
            b'+' => (false, &text[1..]),
            _ => (false, text),
        };
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, suffix) = rest.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if number.is_empty() {
            return Err(QuantityError::Format);
        }
        if fraction.contains('.') || (whole.is_empty() && fraction.is_empty()) {
            return Err(QuantityError::Numeric);
        }
        let (scale, format) = read_suffix(suffix)?;
        let magnitude = match scale {
            Scale::Ten(exponent) => decimal(whole, fraction, exponent),
            Scale::Two(shift) => binary(whole, fraction, shift),
        };
        let nanos = magnitude.min(MAX);
        Ok(Quantity { nanos: if negative { -nanos } else { nanos }, format })
    }

    /// A whole number.
    pub fn from_units(units: i64, format: Format) -> Self {
        Quantity { nanos: i128::from(units) * NANO, format }
    }

    /// A number of thousandths.
    pub fn from_millis(millis: i64, format: Format) -> Self {
        Quantity { nanos: i128::from(millis) * (NANO / 1000), format }
    }

    /// Units, rounded up.
    pub fn value(self) -> i64 {
        self.rounded_up(NANO)
    }

    /// Thousandths, rounded up; capped when they do not fit.
    pub fn milli_value(self) -> i64 {
        self.rounded_up(NANO / 1000)
    }

    /// The same, rounded up to thousandths.
    #[must_use]
    pub fn rounded_to_millis(self) -> Quantity {
        let step = NANO / 1000;
        let up = self.nanos.div_euclid(step) + i128::from(self.nanos.rem_euclid(step) != 0);
        Quantity { nanos: (up * step).min(MAX), format: self.format }
    }

    fn rounded_up(self, step: i128) -> i64 {
        let up = self.nanos.div_euclid(step) + i128::from(self.nanos.rem_euclid(step) != 0);
        i64::try_from(up).unwrap_or(if up < 0 { i64::MIN } else { i64::MAX })
    }

    /// Whether it is zero.
    pub fn is_zero(self) -> bool {
        self.nanos == 0
    }

    /// Whether it is below zero.
    pub fn is_negative(self) -> bool {
        self.nanos < 0
    }

    /// How it is written.
    pub fn format(self) -> Format {
        self.format
    }
}

/// The sum, capped, in the format of the first operand unless that is zero.
impl Add for Quantity {
    type Output = Quantity;

    fn add(self, other: Quantity) -> Quantity {
        let format = if self.is_zero() { other.format } else { self.format };
        Quantity { nanos: (self.nanos + other.nanos).clamp(-MAX, MAX), format }
    }
}

/// The difference, capped, in the format of the first operand unless that is zero.
impl Sub for Quantity {
    type Output = Quantity;

    fn sub(self, other: Quantity) -> Quantity {
        self + Quantity { nanos: -other.nanos, format: other.format }
    }
}

/// The product with a whole number, capped.
impl Mul<i64> for Quantity {
    type Output = Quantity;

    fn mul(self, factor: i64) -> Quantity {
        Quantity { nanos: self.nanos.saturating_mul(i128::from(factor)).clamp(-MAX, MAX), format: self.format }
    }
}

enum Scale {
    Ten(i32),
    Two(u32),
}

fn read_suffix(suffix: &str) -> Result<(Scale, Format), QuantityError> {
    let ten = |exponent| Ok((Scale::Ten(exponent), Format::DecimalSi));
    let two = |shift| Ok((Scale::Two(shift), Format::BinarySi));
    match suffix {
        "n" => ten(-9),
        "u" => ten(-6),
        "m" => ten(-3),
        "" => ten(0),
        "k" => ten(3),
        "M" => ten(6),
        "G" => ten(9),
        "T" => ten(12),
        "P" => ten(15),
        "E" => ten(18),
        "Ki" => two(10),
        "Mi" => two(20),
        "Gi" => two(30),
        "Ti" => two(40),
        "Pi" => two(50),
        "Ei" => two(60),
        _ => {
            let exponent = suffix.strip_prefix(['e', 'E']).ok_or(QuantityError::Suffix)?;
            let digits = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
            if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
                return Err(QuantityError::Suffix);
            }
            // What does not fit is beyond the cap, or below a billionth, all the same.
            let huge = if exponent.starts_with('-') { i32::MIN / 2 } else { i32::MAX / 2 };
            let exponent = exponent.parse::<i32>().unwrap_or(huge).clamp(i32::MIN / 2, i32::MAX / 2);
            Ok((Scale::Ten(exponent), Format::DecimalExponent))
        }
    }
}

/// `whole.fraction * 10^exponent` in billionths, rounded up.
fn decimal(whole: &str, fraction: &str, exponent: i32) -> i128 {
    let digits = || whole.bytes().chain(fraction.bytes()).map(|b| i128::from(b - b'0'));
    // The place after which billionths end, counted in digits from the left.
    let fraction_places = i64::try_from(fraction.len()).unwrap_or(i64::MAX);
    let total = i64::try_from(whole.len()).unwrap_or(i64::MAX).saturating_add(fraction_places);
    let keep = total - fraction_places + i64::from(exponent) + 9;
    let mut value: i128 = 0;
    let mut lost = false;
    for (at, digit) in (0_i64..).zip(digits()) {
        if at < keep {
            value = value.saturating_mul(10).saturating_add(digit);
            if value > MAX {
                return MAX;
            }
        } else {
            lost |= digit != 0;
        }
    }
    if value > 0 {
        for _ in total..keep {
            value = value.saturating_mul(10);
            if value > MAX {
                return MAX;
            }
        }
    }
    value + i128::from(lost)
}

/// `whole.fraction * 2^shift` in billionths, rounded up.
fn binary(whole: &str, fraction: &str, shift: u32) -> i128 {
    let mut integer: i128 = 0;
    for digit in whole.bytes().map(|b| i128::from(b - b'0')) {
        integer = integer * 10 + digit;
        if integer > i128::from(i64::MAX) {
            return MAX;
        }
    }
    let integer = (integer << shift).saturating_mul(NANO);
    // Long division of the fraction: 18 decimal places say more than 2^60 * 10^9 can lose in one step.
    let mut part: i128 = 0;
    let mut divisor: i128 = 1;
    let mut lost = false;
    for (at, digit) in fraction.bytes().map(|b| i128::from(b - b'0')).enumerate() {
        if at < 18 {
            part = part * 10 + digit;
            divisor *= 10;
        } else {
            lost |= digit != 0;
        }
    }
    // part/divisor * 2^shift * 10^9, without leaving i128: whole and remainder of the first product apart.
    let scaled = part << shift.min(60);
    let (units, rest) = (scaled / divisor, scaled % divisor);
    let below = rest * NANO;
    let nanos = units.saturating_mul(NANO) + below / divisor + i128::from(below % divisor != 0 || lost);
    integer.saturating_add(nanos).min(MAX)
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_zero() {
            return f.write_str("0");
        }
        let sign = if self.is_negative() { "-" } else { "" };
        let magnitude = self.nanos.unsigned_abs();
        let nano = NANO.unsigned_abs();
        // Small and fractional binary quantities are written in decimal, so that nothing is lost.
        if self.format == Format::BinarySi && magnitude >= 1024 * nano && magnitude.is_multiple_of(nano) {
            let mut number = magnitude / nano;
            let mut step = 0;
            while number.is_multiple_of(1024) && step < 6 {
                number /= 1024;
                step += 1;
            }
            let suffix = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"][step];
            return write!(f, "{sign}{number}{suffix}");
        }
        let mut number = magnitude;
        let mut exponent = -9;
        while number.is_multiple_of(1000) && exponent < 18 {
            number /= 1000;
            exponent += 3;
        }
        if self.format == Format::DecimalExponent {
            return match exponent {
                0 => write!(f, "{sign}{number}"),
                _ => write!(f, "{sign}{number}e{exponent}"),
            };
        }
        let suffix = match exponent {
            -9 => "n",
            -6 => "u",
            -3 => "m",
            0 => "",
            3 => "k",
            6 => "M",
            9 => "G",
            12 => "T",
            15 => "P",
            _ => "E",
        };
        write!(f, "{sign}{number}{suffix}")
    }
}

impl FromStr for Quantity {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        Quantity::parse(text)
    }
}

impl TryFrom<&WireQuantity> for Quantity {
    type Error = QuantityError;

    fn try_from(wire: &WireQuantity) -> Result<Self, QuantityError> {
        Quantity::parse(&wire.0)
    }
}

impl From<Quantity> for WireQuantity {
    fn from(quantity: Quantity) -> Self {
        WireQuantity(quantity.to_string())
    }
}

/// Rewrites a quantity in its canonical form; one that does not parse is left for validation to name.
pub fn canonicalize(wire: &mut WireQuantity) {
    if let Ok(quantity) = Quantity::parse(&wire.0) {
        wire.0 = quantity.to_string();
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nanos == other.nanos
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn canonical(text: &str) -> String {
        Quantity::parse(text).unwrap().to_string()
    }

    #[test]
    fn canonical_forms() {
        for (text, want) in [
            ("0", "0"),
            ("0Ki", "0"),
            ("0.5", "500m"),
            ("1000m", "1"),
            ("1500m", "1500m"),
            ("1.5", "1500m"),
            ("100000", "100k"),
            ("1500", "1500"),
            ("1024Ki", "1Mi"),
            ("1.5Gi", "1536Mi"),
            ("1Ki", "1Ki"),
            ("0.5Ki", "512"),
            ("0.1Ki", "102400m"),
            ("1000Ki", "1000Ki"),
            ("1e3", "1e3"),
            ("1E6", "1e6"),
            ("12e2", "1200"),
            ("1.1e0", "1100e-3"),
            ("-2k", "-2k"),
            ("+3", "3"),
            (".5", "500m"),
            ("5.", "5"),
            ("1n", "1n"),
            ("0.1n", "1n"),
            ("1000000u", "1"),
            ("9223372036854775807", "9223372036854775807"),
            ("9223372036854775808", "9223372036854775807"),
            ("1e100", "9223372036854775807"),
            ("100E", "9223372036854775807"),
            ("0.0000000001e-5", "1e-9"),
            ("16Ei", "9223372036854775807"),
        ] {
            assert_eq!(canonical(text), want, "{text}");
        }
    }

    #[test]
    fn values_round_up() {
        let value = |text: &str| Quantity::parse(text).unwrap();
        assert_eq!(value("1500m").value(), 2);
        assert_eq!(value("1500m").milli_value(), 1500);
        assert_eq!(value("-1500m").value(), -1);
        assert_eq!(value("1Gi").value(), 1 << 30);
        assert_eq!(value("0.0001").milli_value(), 1);
        assert_eq!(value("8E").milli_value(), i64::MAX);
        assert_eq!(value("100u").rounded_to_millis().to_string(), "1m");
        assert_eq!(value("8E").rounded_to_millis().to_string(), "8E");
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["", "a", "1x", "1.2.3", ".", "1 ", " 1", "1KiB", "1e", "1ee3", "--1", "1i", "+"] {
            assert!(Quantity::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sums_keep_the_format_of_the_first() {
        let q = |text: &str| Quantity::parse(text).unwrap();
        assert_eq!((q("1Gi") + q("1024Mi")).to_string(), "2Gi");
        assert_eq!((q("0") + q("1Ki")).to_string(), "1Ki");
        assert_eq!((q("1") - q("250m")).to_string(), "750m");
        assert_eq!((q("100m") * 3).to_string(), "300m");
        assert!(q("1Gi") > q("1G"));
        assert_eq!(q("1000m"), q("1"));
    }

    proptest! {
        #[test]
        fn the_canonical_form_is_the_same_number(digits in "[0-9]{1,12}(\\.[0-9]{0,9})?", suffix in prop::sample::select(vec!["", "m", "u", "n", "k", "M", "Ki", "Mi", "Gi", "e2", "e-3"])) {
            let quantity = Quantity::parse(&format!("{digits}{suffix}")).unwrap();
            let again = Quantity::parse(&quantity.to_string()).unwrap();
            prop_assert_eq!(quantity, again);
            prop_assert_eq!(quantity.to_string(), again.to_string());
        }

        #[test]
        fn no_text_makes_it_panic(text in "[+-]?[0-9.]{0,50}[eEinumkKMGTP]{0,2}[-+]?[0-9]{0,20}") {
            let _ = Quantity::parse(&text);
        }

        #[test]
        fn addition_is_exact(a in -1_000_000_000_i64..1_000_000_000, b in -1_000_000_000_i64..1_000_000_000) {
            let sum = Quantity::from_millis(a, Format::DecimalSi) + Quantity::from_millis(b, Format::DecimalSi);
            prop_assert_eq!(sum.milli_value(), a + b);
        }
    }
}
