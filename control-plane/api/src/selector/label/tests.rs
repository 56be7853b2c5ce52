use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

fn matches(selector: &str, labels: &[(&'static str, &'static str)]) -> bool {
    let labels: BTreeMap<&str, &'static str> = labels.iter().copied().collect();
    LabelSelector::parse(selector).unwrap().matches(|key| labels.get(key).copied())
}

#[test]
fn every_operator() {
    let labels = [("app", "web"), ("n", "5")];
    for (selector, want) in [
        ("", true),
        ("app=web", true),
        ("app==web", true),
        ("app!=web", false),
        ("none!=web", true),
        ("app in (web, db)", true),
        ("app in (db)", false),
        ("app notin (db)", true),
        ("none notin (db)", true),
        ("app", true),
        ("!app", false),
        ("!none", true),
        ("n gt 4", true),
        ("n>4", true),
        ("n<5", false),
        ("n lt 6,app", true),
        ("app gt 1", false),
        ("none=", false),
        ("app in (web),n notin (4),!z", true),
    ] {
        assert_eq!(matches(selector, &labels), want, "{selector}");
    }
    assert!(matches("empty=", &[("empty", "")]));
    assert!(matches("empty in (,a)", &[("empty", "")]));
}

#[test]
fn selectors_print_in_canonical_form() {
    for (text, want) in [("x in (c, a,b),a==1", "a==1,x in (a,b,c)"), (" y , !x ", "!x,y"), ("a>1", "a>1")] {
        assert_eq!(LabelSelector::parse(text).unwrap().to_string(), want);
    }
}

#[test]
fn errors_are_upstreams() {
    for (text, want) in [
        ("a=b,", "found '', expected: identifier after ','"),
        ("a b", "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt"),
        ("a in b", "unable to parse requirement: found 'b' expected: '('"),
        ("a in (b", "unable to parse requirement: found '', expected: ',' or ')'"),
        ("=b", "found '=', expected: !, identifier, or 'end of string'"),
        ("a=b c", "found 'c', expected: ',' or 'end of string'"),
        ("!=a", "found '!=', expected: !, identifier, or 'end of string'"),
    ] {
        let error = LabelSelector::parse(text).unwrap_err();
        assert_eq!((error.code().as_u16(), error.message()), (400, want), "{text}");
    }
    let error = LabelSelector::parse("a=/bar").unwrap_err();
    assert!(
        error
            .message()
            .starts_with("unable to parse requirement: values[0][a]: Invalid value: \"/bar\": a valid label"),
        "{}",
        error.message()
    );
    let error = LabelSelector::parse("n gt x").unwrap_err();
    assert!(error.message().contains("for 'Gt', 'Lt' operators, the value must be an integer"));
}

#[test]
fn api_selectors_convert() {
    let wire: metav1::LabelSelector = serde_json::from_value(serde_json::json!({
        "matchLabels": {"app": "web"},
        "matchExpressions": [{"key": "tier", "operator": "NotIn", "values": ["db"]}],
    }))
    .unwrap();
    let selector = LabelSelector::try_from(&wire).unwrap();
    assert_eq!(selector.to_string(), "app=web,tier notin (db)");
    assert!(!LabelSelector::from_optional(None).unwrap().matches(|_| None));
    assert!(LabelSelector::from_optional(Some(&metav1::LabelSelector::default())).unwrap().matches(|_| None));
    let wire: metav1::LabelSelector =
        serde_json::from_value(serde_json::json!({"matchExpressions": [{"key": "a", "operator": "Gt"}]})).unwrap();
    assert_eq!(LabelSelector::try_from(&wire).unwrap_err().message(), "\"Gt\" is not a valid label selector operator");
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in "[a-z!=<>(),ä ]{0,30}") {
        let _ = LabelSelector::parse(&text);
    }

    #[test]
    fn what_is_printed_parses_to_the_same(key in "[a-z]{1,5}", values in prop::collection::vec("[a-z0-9]{1,4}", 1..4)) {
        for operator in [Operator::In, Operator::NotIn, Operator::Exists, Operator::DoesNotExist, Operator::NotEquals] {
            let values = match operator {
                Operator::Exists | Operator::DoesNotExist => vec![],
                Operator::NotEquals => values[..1].to_vec(),
                _ => values.clone(),
            };
            let selector = LabelSelector::new(vec![Requirement::new(&key, operator, values).unwrap()]);
            prop_assert_eq!(LabelSelector::parse(&selector.to_string()).unwrap(), selector);
        }
    }
}
