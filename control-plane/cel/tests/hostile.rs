//! Expressions that mean harm: each ends quickly with an error, none takes the process down.

use serde_json::{Value as Json, json};
use skep_cel::{Budget, Environment, Inputs, Type, Want};

fn evaluate(source: &str, x: &Json) -> Result<Json, String> {
    let environment = Environment::new().with("x", Type::Dyn);
    let program = environment.compile(source, Want::Any).map_err(|error| error.to_string())?;
    let mut budget = Budget::new(Budget::PER_REQUEST);
    let inputs = Inputs::new().json("x", x);
    let value = program.evaluate(&inputs, &mut budget).map_err(|error| error.to_string())?;
    value.to_json(&mut Budget::new(Budget::PER_REQUEST)).map_err(|error| error.to_string())
}

const OUT: &str = "operation cancelled: actual cost limit exceeded";

#[test]
fn what_nests_too_deep_is_refused() {
    let deep = 10_000;
    for source in [
        format!("{}1{}", "(".repeat(deep), ")".repeat(deep)),
        format!("{}1{}", "[".repeat(deep), "]".repeat(deep)),
        format!("{}1{}", "{1:".repeat(deep), "}".repeat(deep)),
        format!("{}true", "!".repeat(deep)),
        format!("{}1", "-".repeat(deep)),
        format!("1{}", "+1".repeat(deep)),
        format!("x{}", ".a".repeat(deep)),
        format!("x{}", "[0]".repeat(deep)),
        format!("x{}", ".f()".repeat(deep)),
        format!("{}1", "true?1:".repeat(deep)),
        format!("{}1", "true&&true?1:".repeat(deep)),
        format!("{}1{}", "size(".repeat(deep), ")".repeat(deep)),
        format!("{}true{}", "x.all(i,".repeat(deep), ")".repeat(deep)),
        // What looks like text and is none.
        format!("\"{}1", "-".repeat(deep)),
        format!("r'\\' + {}1 + '", "-".repeat(deep)),
        "(".repeat(deep),
        ")".repeat(deep),
        "x".repeat(200_000),
    ] {
        let shown: String = source.chars().take(20).collect();
        assert!(evaluate(&source, &Json::Null).is_err(), "{shown}");
    }
}

#[test]
fn what_nests_as_deep_as_upstream_allows_is_evaluated_on_a_small_stack() {
    let run = || {
        let sources = [
            (format!("{}1{}", "(".repeat(60), ")".repeat(60)), json!(1)),
            (format!("1{}", "+1".repeat(200)), json!(201)),
            (format!("{}false", "!".repeat(200)), json!(false)),
            (format!("true{}", " && true".repeat(1000)), json!(true)),
            (format!("{}1{}", "[".repeat(60), "]".repeat(60)), Json::Null),
            (format!("x{}", ".a".repeat(200)), Json::Null),
        ];
        let mut x = json!(1);
        for _ in 0..100 {
            x = json!({"a": x});
        }
        for (source, expected) in sources {
            let got = evaluate(&source, &x);
            if !expected.is_null() {
                assert_eq!(got, Ok(expected));
            }
        }
    };
    // The stack of a worker thread.
    std::thread::Builder::new().stack_size(2 << 20).spawn(run).unwrap().join().unwrap();
}

#[test]
fn what_multiplies_runs_out_of_budget() {
    let many: Vec<i32> = (0..1000).collect();
    let words: Vec<String> = (0..1000).map(|n| format!("word {n}")).collect();
    let x = json!({"many": many, "words": words, "text": "a".repeat(100_000), "rows": vec![many.clone(); 100]});
    for source in [
        "x.many.all(a, x.many.all(b, x.many.all(c, a + b + c >= 0)))",
        "x.many.map(a, x.many.map(b, x.many.map(c, x.many)))",
        "x.many.map(a, x.text + x.text)",
        "x.many.map(a, x.text.replace('', x.text))",
        "x.many.map(a, x.words.join(x.text))",
        "x.many.exists(a, x.text.matches('(a|a)*b' + string(a)))",
        "x.many.all(a, x.rows == x.rows)",
        "x.many.all(a, sets.contains(x.many, x.many))",
        "x.many.map(a, x.text.split(''))",
        "x.many.map(a, x.text.findAll('a'))",
        "x.many.map(a, '%s'.format([x]))",
        "x.many.transformList(i, a, x.many + x.many + x.many + x.many)",
        "x.many.transformMap(i, a, x.many.transformMap(j, b, x.text))",
        "x.many.all(a, x.many.isSorted() && x.many.sum() > 0 && x.many.indexOf(999) > 0)",
    ] {
        let outcome = evaluate(source, &x);
        assert_eq!(outcome.err().as_deref(), Some(OUT), "{source}");
    }
    // No operator can make a budget that is used up unimportant.
    assert_eq!(evaluate("x.many.all(a, x.many.all(b, x.many.all(c, true))) || true", &x), Err(OUT.to_owned()));
}

#[test]
fn the_budget_of_a_request_is_shared_by_its_expressions() {
    let environment = Environment::new().with("x", Type::Dyn);
    let program = environment.compile("x.all(a, a >= 0)", Want::Bool).unwrap();
    let many: Vec<i32> = (0..100).collect();
    let x = json!(many);
    let mut budget = Budget::new(3000);
    let run = |budget: &mut Budget| program.evaluate_bool(&Inputs::new().json("x", &x), budget);
    let before = budget.left();
    assert_eq!(run(&mut budget), Ok(true));
    let cost = before - budget.left();
    assert!(cost > 300, "every element costs: {cost}");
    let mut runs = 1;
    while run(&mut budget).is_ok() {
        runs += 1;
    }
    assert_eq!(runs, 3000 / cost);
    assert!(budget.is_exhausted());
}

#[test]
fn expressions_for_text_that_grow_are_refused() {
    for pattern in ["(a{1000}){1000}", "((((a{100}){100}){100}){100})", "\\\\p{L}{1000}{1000}", "(", "[", "(?<x"] {
        assert!(evaluate(&format!("x.matches('{pattern}')"), &json!("a")).is_err(), "{pattern}");
        let built = format!("x.matches('{}' + '{}')", &pattern[..1], &pattern[1..]);
        assert!(evaluate(&built, &json!("a")).is_err(), "{built}");
    }
    // Backtracking would take for ever here.
    assert_eq!(evaluate("x.matches('^(a+)+$')", &json!("a".repeat(5000) + "b")), Ok(json!(false)));
}

#[test]
fn numbers_and_times_at_their_ends_are_errors_and_no_panics() {
    for source in [
        "-9223372036854775808 / -1",
        "-9223372036854775808 % -1",
        "-(-9223372036854775808)",
        "-9223372036854775808 - 1",
        "9223372036854775807 * 2",
        "18446744073709551615u + 1u",
        "0u - 1u",
        "int(1e300)",
        "int(0.0 / 0.0)",
        "uint(-1)",
        "uint(-1.0)",
        "timestamp('9999-12-31T23:59:59Z') + duration('1h')",
        "timestamp('0001-01-01T00:00:00Z') - duration('1h')",
        "timestamp(9223372036854775807)",
        "duration('9223372036s') + duration('9223372036s')",
        "timestamp('9999-12-31T23:59:59Z') - timestamp('0001-01-01T00:00:00Z')",
        "timestamp('2020-01-01T00:00:00Z').getHours('Nowhere/Land')",
        "timestamp('2020-01-01T00:00:00Z').getHours('99:99')",
        "[1][-1]",
        "[1][9223372036854775807]",
        "'é'.substring(0, 9)",
        "'é'.substring(1, 0)",
        "'é'.charAt(-1)",
        "'é'.indexOf('x', 7)",
        "'é'.lastIndexOf('x', -1)",
        "'%d'.format(['x'])",
        "'%'.format([])",
        "'%s'.format([])",
        "'%q'.format([1])",
        "semver('x')",
        "url('::')",
        "ip('x')",
        "cidr('10.0.0.0/99')",
        "{'a': 1, 'a': 2}",
        "{dyn([]): 1}",
        "x[dyn([])]",
    ] {
        assert!(evaluate(source, &json!({"a": 1})).is_err(), "{source}");
    }
    for source in [
        "'é'.lastIndexOf('é', 0)",
        "'aé'.split('')",
        "'é'.replace('', 'x')",
        "'%.100f'.format([1.5])",
        "'%.99999999999999999999s'.format([1])",
    ] {
        assert!(evaluate(source, &Json::Null).is_ok(), "{source}: {:?}", evaluate(source, &Json::Null));
    }
}

#[test]
fn estimates_know_what_schemas_bound() {
    let schema = |list: Json| json!({"type": "object", "properties": {"list": list, "name": {"type": "string", "maxLength": 10}}});
    let cost = |list: Json, source: &str| {
        let ty = Type::from_schema(&schema(list), false).unwrap();
        Environment::new().with("self", ty).compile(source, Want::Bool).unwrap().cost()
    };
    let bounded = json!({"type": "array", "maxItems": 10, "items": {"type": "string", "maxLength": 10}});
    let unbounded = json!({"type": "array", "items": {"type": "string"}});
    let rule = "self.list.all(a, self.list.all(b, a == b))";
    let (small, large) = (cost(bounded.clone(), rule), cost(unbounded, rule));
    assert!(small.max < 10_000_000, "{small:?}");
    assert!(large.max > 10_000_000 * 100, "{large:?}");
    assert!(cost(bounded, "self.name.startsWith('a')").max < 10);
}

#[test]
fn garbage_is_an_error() {
    for source in [
        "",
        " ",
        "1 +",
        "'",
        "\"\"\"",
        "\u{0}",
        "a b",
        "a.",
        ".",
        "a..b",
        "[1",
        "{",
        "}",
        "@",
        "#",
        "$",
        "`x`",
        "x.`a",
        "1u1",
        "0x",
        "1e",
        "b'\\",
        "'\\u12'",
        "'\\xZZ'",
        "//",
        "?",
        "x ?",
        "x ? 1",
        "x.map(1, 2)",
        "x.map()",
        "has()",
        "has(1)",
        "x.optMap(1, 2)",
        "x.all(a, a, a)",
        "in",
        "1 in",
        "null.x.y()",
        "é",
        "'é",
        "🦀",
    ] {
        assert!(evaluate(source, &json!({"a": 1})).is_err(), "{source:?}");
    }
}
