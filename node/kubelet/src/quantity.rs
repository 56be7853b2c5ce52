//! Amounts of resources as the kernel wants them.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

type List = Option<BTreeMap<String, Quantity>>;

/// The amount times 1000, rounded up; `None` when it does not parse.
pub(crate) fn milli(quantity: &Quantity) -> Option<i64> {
    Some(skep_api::quantity::Quantity::try_from(quantity).ok()?.milli_value())
}

/// The amount in units, rounded up.
pub(crate) fn units(quantity: &Quantity) -> Option<i64> {
    Some(skep_api::quantity::Quantity::try_from(quantity).ok()?.value())
}

pub(crate) fn cpu_milli(list: &List) -> Option<i64> {
    list.as_ref()?.get("cpu").and_then(milli)
}

pub(crate) fn memory(list: &List) -> Option<i64> {
    list.as_ref()?.get("memory").and_then(units)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_round_up() {
        let cases = [("100m", 100), ("0.1", 100), ("1", 1000), ("1.5Gi", 1_610_612_736_000), ("1e3", 1_000_000)];
        for (text, expected) in cases {
            assert_eq!(milli(&Quantity(text.into())), Some(expected), "{text}");
        }
        assert_eq!(units(&Quantity("100m".into())), Some(1));
        assert_eq!(milli(&Quantity("abc".into())), None);
    }
}
