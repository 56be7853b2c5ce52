//! Expressions and what they give: the language, and each library.

use serde_json::{Value as Json, json};
use skep_cel::{Budget, Environment, Inputs, Program, Type, Value, Want};

fn compile(source: &str) -> Result<Program, String> {
    Environment::new().with("x", Type::Dyn).compile(source, Want::Any).map_err(|error| error.to_string())
}

fn evaluate(source: &str, x: &Json) -> Result<Json, String> {
    let program = compile(source)?;
    let mut budget = Budget::new(Budget::PER_REQUEST);
    let value = program.evaluate(&Inputs::new().json("x", x), &mut budget).map_err(|error| error.to_string())?;
    match &value {
        Value::Type(name) => Ok(json!(name.to_string())),
        value => value.to_json(&mut Budget::new(Budget::PER_REQUEST)).map_err(|error| error.to_string()),
    }
}

fn check(table: &[(&str, Json)]) {
    let x = json!({
        "name": "web", "port": 80, "ratio": 1.5, "absent": null, "labels": {"a": "1", "b": "2"},
        "items": [{"n": 1}, {"n": 2}, {"n": 3}], "in": 7
    });
    let wrong: Vec<String> = table
        .iter()
        .filter_map(|(source, expected)| {
            let got = evaluate(source, &x);
            (got.as_ref() != Ok(expected)).then(|| format!("{source}\n  expected {expected}\n  got      {got:?}"))
        })
        .collect();
    assert!(wrong.is_empty(), "{} of {} are wrong:\n{}", wrong.len(), table.len(), wrong.join("\n"));
}

#[test]
fn operators_do_what_the_language_says() {
    check(&[
        ("1 + 2 * 3", json!(7)),
        ("(1 + 2) * 3", json!(9)),
        ("7 / 2", json!(3)),
        ("-7 / 2", json!(-3)),
        ("7 % 3", json!(1)),
        ("-7 % 3", json!(-1)),
        ("7.0 / 2.0", json!(3.5)),
        ("3u + 4u", json!(7)),
        ("'a' + 'b'", json!("ab")),
        ("b'a' + b'b' == b'ab'", json!(true)),
        ("[1] + [2, 3]", json!([1, 2, 3])),
        ("1 == 1 && 'a' != 'b'", json!(true)),
        ("1 < 2 && 2.5 >= 2.5 && 'a' < 'b'", json!(true)),
        ("1 < 2.5 && 2u > 1 && 3u <= 3.0", json!(true)),
        ("dyn(1) == 1.0", json!(true)),
        ("dyn(1u) == 1", json!(true)),
        ("dyn('1') == 1", json!(false)),
        ("[dyn(1), dyn(2.0)] == [dyn(1.0), dyn(2)]", json!(true)),
        ("true || false && false", json!(true)),
        ("!true ? 1 : 2", json!(2)),
        ("1 in [1, 2]", json!(true)),
        ("'a' in {'a': 1}", json!(true)),
        ("'c' in x.labels", json!(false)),
        ("dyn(2.0) in [1, 2]", json!(true)),
        ("-(-3)", json!(3)),
        ("{'a': dyn(1), 'b': dyn([1])}['b'][0]", json!(1)),
        ("{1: 'a', 2: 'b'}[2]", json!("b")),
        ("{'a': {'b': 1}} == {'a': {'b': 1}}", json!(true)),
        ("9223372036854775807 > 9223372036854775806", json!(true)),
        ("dyn(9223372036854775807) < 9223372036854775807.5", json!(true)),
        ("0x1F", json!(31)),
        ("1e3", json!(1000.0)),
        (r"r'\d' == '\\d'", json!(true)),
        ("null == null", json!(true)),
        ("x.absent == null", json!(true)),
        // An error on one side is forgotten when the other side decides.
        ("1 / 0 == 1 || true", json!(true)),
        ("x.nothing == 1 && false", json!(false)),
    ]);
}

#[test]
fn fields_macros_and_optionals_reach_into_json() {
    check(&[
        ("x.name", json!("web")),
        ("x['name']", json!("web")),
        ("x.ratio * 2.0", json!(3.0)),
        ("x.items[1].n", json!(2)),
        ("x.__in__ == 7 || true", json!(true)),
        ("has(x.name) && !has(x.nothing)", json!(true)),
        ("has(x.labels.a) && !has(x.labels.z)", json!(true)),
        ("x.items.all(i, i.n > 0)", json!(true)),
        ("x.items.exists(i, i.n == 2)", json!(true)),
        ("x.items.exists_one(i, i.n > 2)", json!(true)),
        ("x.items.map(i, i.n * 2)", json!([2, 4, 6])),
        ("x.items.map(i, i.n > 1, i.n)", json!([2, 3])),
        ("x.items.filter(i, i.n > 1).size()", json!(2)),
        ("x.labels.all(k, x.labels[k] != '')", json!(true)),
        ("x.labels.map(k, k)", json!(["a", "b"])),
        ("[[1, 2], [3]].map(l, l.map(e, e + l[0]))", json!([[2, 3], [6]])),
        ("[1, 2, 3].exists(e, e / 0 == 1 || e == 3)", json!(true)),
        ("size(x.items) + x.name.size() + size(x.labels)", json!(8)),
        ("x.?name.orValue('none')", json!("web")),
        ("x.?nothing.orValue('none')", json!("none")),
        ("x.?nothing.deep.deeper.hasValue()", json!(false)),
        ("x.items[?7].hasValue()", json!(false)),
        ("x.labels[?'a'].value()", json!("1")),
        ("optional.of(1).optMap(v, v + 1).value()", json!(2)),
        ("optional.none().optMap(v, v + 1).hasValue()", json!(false)),
        ("optional.of(1).optFlatMap(v, optional.of(v + 1)).value()", json!(2)),
        ("optional.ofNonZeroValue('').hasValue()", json!(false)),
        ("x.?nothing.or(x.?name).value()", json!("web")),
        ("[1, ?x.?nothing, ?optional.of(2)]", json!([1, 2])),
        ("{'a': 1, ?'b': x.?nothing}", json!({"a": 1})),
        ("optional.of(1) == optional.of(1)", json!(true)),
        ("[1, 2].all(i, v, v == i + 1)", json!(true)),
        ("{'a': 1}.exists(k, v, k == 'a' && v == 1)", json!(true)),
        ("[5, 6].existsOne(i, v, v == 6)", json!(true)),
        ("[5, 6].transformList(i, v, i + v)", json!([5, 7])),
        ("[5, 6].transformList(i, v, v > 5, i)", json!([1])),
        ("{'a': 1, 'b': 2}.transformMap(k, v, v * 2)", json!({"a": 2, "b": 4})),
        ("{'a': 'x', 'b': 'y'}.transformMapEntry(k, v, {v: k})", json!({"x": "a", "y": "b"})),
        ("[1, 2].map(x, x + 1)", json!([2, 3])),
    ]);
}

#[test]
fn conversions_and_times_follow_upstream() {
    check(&[
        ("int('42') + int(2.9) + int(3u)", json!(47)),
        ("uint(3)", json!(3)),
        ("double('1.5')", json!(1.5)),
        ("string(1) + string(1.5) + string(true) + string(b'x')", json!("11.5truex")),
        ("string(1e21) + ' ' + string(0.00001)", json!("1e+21 1e-05")),
        ("bool('true')", json!(true)),
        ("bytes('ab') == b'ab'", json!(true)),
        ("type(1) == int && type('') == string && type([]) == list", json!(true)),
        ("type(type(1)) == type", json!(true)),
        ("type(duration('1s')) == google.protobuf.Duration", json!(true)),
        ("duration('1h30m') == duration('90m')", json!(true)),
        ("string(duration('1h30m'))", json!("5400s")),
        ("string(duration('1.5s'))", json!("1.5s")),
        ("duration('90m').getHours()", json!(1)),
        ("duration('1500ms').getMilliseconds()", json!(1500)),
        ("timestamp('2023-05-06T07:08:09Z').getFullYear()", json!(2023)),
        ("timestamp('2023-05-06T07:08:09Z').getMonth()", json!(4)),
        ("timestamp('2023-05-06T07:08:09Z').getDate()", json!(6)),
        ("timestamp('2023-05-06T07:08:09Z').getDayOfMonth()", json!(5)),
        ("timestamp('2023-05-06T07:08:09Z').getDayOfWeek()", json!(6)),
        ("timestamp('2023-05-06T07:08:09Z').getHours('+02:00')", json!(9)),
        ("timestamp('2023-05-06T07:08:09Z').getHours('Europe/Berlin')", json!(9)),
        ("timestamp('2023-05-06T07:08:09Z') + duration('1h') > timestamp('2023-05-06T07:08:09Z')", json!(true)),
        ("string(timestamp('2023-05-06T07:08:09Z') - timestamp('2023-05-06T07:08:08Z'))", json!("1s")),
        ("int(timestamp('1970-01-01T00:01:00Z'))", json!(60)),
    ]);
}

#[test]
fn strings_are_cut_searched_and_formatted() {
    check(&[
        ("'hello'.startsWith('he') && 'hello'.endsWith('lo') && 'hello'.contains('ell')", json!(true)),
        ("'hello'.matches('^h.*o$') && matches('a1', '[0-9]')", json!(true)),
        ("'hello'.charAt(4) + 'hello'.charAt(5)", json!("o")),
        ("'hello mellow'.indexOf('ello')", json!(1)),
        ("'hello mellow'.indexOf('ello', 2)", json!(7)),
        ("'hello mellow'.indexOf('jello')", json!(-1)),
        ("'hello mellow'.lastIndexOf('ello')", json!(7)),
        ("'hello mellow'.lastIndexOf('ello', 6)", json!(1)),
        ("['a', 'b'].join() + ['a', 'b'].join('-')", json!("aba-b")),
        ("'TacoCat'.lowerAscii() + 'TacoCÆt'.upperAscii()", json!("tacocatTACOCÆT")),
        ("'hello hello'.replace('he', 'we')", json!("wello wello")),
        ("'hello hello'.replace('he', 'we', 1)", json!("wello hello")),
        ("'hello hello'.replace('he', 'we', 0)", json!("hello hello")),
        ("'a b c'.split(' ')", json!(["a", "b", "c"])),
        ("'a b c'.split(' ', 2)", json!(["a", "b c"])),
        ("'abc'.split('')", json!(["a", "b", "c"])),
        ("'a b'.split(' ', 0)", json!([])),
        ("'tacocat'.substring(4) + 'tacocat'.substring(0, 4)", json!("cattaco")),
        ("'tacocät'.size()", json!(7)),
        ("'tacocät'.substring(5, 6)", json!("ä")),
        ("'  \\ttrim\\n '.trim()", json!("trim")),
        (
            "'%s is %d years, %.2f, %x, %X, %b, %o, %e'.format(['x', 3, 1.005, 255, 'hi', 5, 8, 1234.5])",
            json!("x is 3 years, 1.00, ff, 6869, 101, 10, 1.234500e+03"),
        ),
        ("'%s %s %s'.format([[1, 2], {'k': 1.5}, null])", json!("[1, 2] {k: 1.5} null")),
        ("strings.quote('a\"b')", json!("\"a\\\"b\"")),
        ("'abc 123 def 456'.find('[0-9]+')", json!("123")),
        ("'abc'.find('[0-9]+')", json!("")),
        ("'123 abc 456'.findAll('[0-9]+')", json!(["123", "456"])),
        ("'123 abc 456'.findAll('[0-9]+', 1)", json!(["123"])),
        ("'123'.findAll('[0-9]', 0)", json!([])),
    ]);
}

#[test]
fn the_kubernetes_libraries_answer_as_upstream() {
    check(&[
        ("[1, 2, 3].isSorted() && !['b', 'a'].isSorted()", json!(true)),
        ("[1, 3].sum() + [1, 3].min() + [1, 3].max()", json!(8)),
        ("[1.5, 2.5].sum()", json!(4.0)),
        ("x.items.map(i, i.n).sum()", json!(6)),
        ("[duration('1s'), duration('2s')].sum() == duration('3s')", json!(true)),
        ("[1, 2, 2].indexOf(2) + [1, 2, 2].lastIndexOf(2)", json!(3)),
        ("['a'].indexOf('z')", json!(-1)),
        ("sets.contains([1, 2, 3], [2, 1]) && !sets.contains([1], [2])", json!(true)),
        ("sets.equivalent([1, 1, 2], [2, 1]) && sets.intersects([1], [1, 2])", json!(true)),
        ("url('https://user@example.com:80/a b/c?k=1&k=2').getHost()", json!("example.com:80")),
        ("url('https://example.com:80/path').getHostname()", json!("example.com")),
        ("url('https://[::1]:80/').getHostname()", json!("::1")),
        ("url('https://example.com:80/').getPort()", json!("80")),
        ("url('https://example.com/').getPort()", json!("")),
        ("url('/path').getScheme()", json!("")),
        ("url('https://example.com/path with spaces/').getEscapedPath()", json!("/path%20with%20spaces/")),
        ("url('https://example.com/p?k1=a&k2=b&k2=c').getQuery()", json!({"k1": ["a"], "k2": ["b", "c"]})),
        ("isURL('https://a.com') && isURL('/x') && !isURL('../relative') && !isURL('foo')", json!(true)),
        ("quantity('1Gi').isGreaterThan(quantity('1G'))", json!(true)),
        ("quantity('50k').compareTo(quantity('50000'))", json!(0)),
        ("quantity('1500m').isInteger() || quantity('2').asInteger() == 2", json!(true)),
        ("quantity('1500m').asApproximateFloat()", json!(1.5)),
        ("quantity('50k').add(quantity('20k')).sub(20) == quantity('69980')", json!(true)),
        ("quantity('-1').sign() + quantity('0').sign()", json!(-1)),
        ("isQuantity('1.3Gi') && !isQuantity('x')", json!(true)),
        ("isIP('127.0.0.1') && isIP('::1') && !isIP('1.2.3') && !isIP('::ffff:1.2.3.4')", json!(true)),
        ("ip('127.0.0.1').isLoopback() && ip('127.0.0.1').family() == 4", json!(true)),
        ("ip.isCanonical('2001:db8::abcd') && !ip.isCanonical('2001:DB8::ABCD')", json!(true)),
        ("ip('224.0.0.1').isLinkLocalMulticast() && ip('fe80::1').isLinkLocalUnicast()", json!(true)),
        ("ip('192.168.0.1').isGlobalUnicast() && !ip('255.255.255.255').isGlobalUnicast()", json!(true)),
        ("string(ip('10.0.0.1')) + ' ' + string(cidr('10.0.0.1/8').masked())", json!("10.0.0.1 10.0.0.0/8")),
        (
            "cidr('192.168.0.0/24').containsIP('192.168.0.1') && cidr('192.168.0.0/24').containsIP(ip('192.168.0.2'))",
            json!(true),
        ),
        ("cidr('192.168.0.0/16').containsCIDR('192.168.10.0/24')", json!(true)),
        ("cidr('192.168.0.0/24').ip() == ip('192.168.0.0') && cidr('::/1').prefixLength() == 1", json!(true)),
        ("isCIDR('10.0.0.0/8') && !isCIDR('10.0.0.0/33') && !isCIDR('10.0.0.0')", json!(true)),
        ("format.dns1123Label().validate('my-label').hasValue()", json!(false)),
        ("format.dns1123Label().validate('-bad-').value().size()", json!(1)),
        ("format.named('uuid').value().validate('not').hasValue()", json!(true)),
        ("format.named('nothing').hasValue()", json!(false)),
        ("semver('1.2.3').major() + semver('1.2.3').minor() + semver('1.2.3').patch()", json!(6)),
        (
            "semver('1.2.3').isLessThan(semver('2.0.0')) && semver('1.0.0-a').compareTo(semver('1.0.0')) == -1",
            json!(true),
        ),
        ("isSemver('v1.0') || isSemver('v1.0', true)", json!(true)),
        ("semver('v01.2', true) == semver('1.2.0')", json!(true)),
    ]);
}

#[test]
fn what_goes_wrong_is_said_in_upstreams_words() {
    let x = json!({"a": 1, "list": [1]});
    for (source, expected) in [
        ("x.b", "no such key: b"),
        ("x['b']", "no such key: b"),
        ("x.a.b", "no such key: b"),
        ("x.list[3]", "index out of bounds: 3"),
        ("1 / (x.a - 1)", "division by zero"),
        ("1 % (x.a - 1)", "modulus by zero"),
        ("9223372036854775807 + x.a", "integer overflow"),
        ("x.a + 'text'", "no such overload"),
        ("x.a && true", "no such overload"),
        ("x.list.all(i, i.b)", "no such key: b"),
        ("int('abc')", "type conversion error from 'string' to 'int'"),
        ("optional.none().value()", "optional.none() dereference"),
        ("'abc'.charAt(9)", "index out of range: 9"),
        ("[].min()", "min called on empty list"),
        (
            "quantity('x')",
            "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
        ),
    ] {
        assert_eq!(evaluate(source, &x), Err(expected.to_owned()), "{source}");
    }
}

#[test]
fn faults_are_found_before_anything_runs() {
    let schema = json!({
        "type": "object",
        "properties": {
            "x": {"type": "integer"}, "name": {"type": "string"}, "on": {"type": "boolean"},
            "list": {"type": "array", "items": {"type": "string"}}
        }
    });
    let environment = Environment::new().with("self", Type::from_schema(&schema, false).unwrap());
    for (source, want, expected) in [
        ("self.z == 100", Want::Bool, "ERROR: <input>:1:5: undefined field 'z'\n | self.z == 100\n | ....^"),
        ("other == 1", Want::Bool, "undeclared reference to 'other' (in container '')"),
        ("self.x + 1", Want::Bool, "must evaluate to bool"),
        ("self.x", Want::String, "must evaluate to string"),
        ("self.x == 'a'", Want::Bool, "found no matching overload for '_==_' applied to '(int, string)'"),
        ("self.name.size(1)", Want::Any, "found no matching overload for 'size' applied to 'string.(int)'"),
        ("self.name.nothing()", Want::Any, "undeclared reference to 'nothing' (in container '')"),
        ("self.x.y", Want::Any, "type 'int' does not support field selection"),
        ("self.x.all(i, true)", Want::Bool, "expression of type 'int' cannot be range of a comprehension"),
        ("self.list.all(i, i + 'x')", Want::Bool, "expected type 'bool' but found 'string'"),
        ("[1, 'a']", Want::Any, "expected type 'int' but found 'string'"),
        ("duration('x') > duration('1s')", Want::Bool, "invalid duration argument"),
        ("timestamp('x') == timestamp('x')", Want::Bool, "invalid timestamp argument"),
        ("self.name.matches('(')", Want::Bool, "invalid matches argument"),
        ("self.x == ", Want::Bool, "Syntax error: mismatched input '<EOF>'"),
        ("self.x = 1", Want::Bool, "Syntax error: token recognition error at: '= '"),
        ("self.x ? 1 : 2", Want::Any, "found no matching overload for '_?_:_' applied to '(int, int, int)'"),
        ("Foo{a: 1}", Want::Any, "undeclared reference to 'Foo' (in container '')"),
        ("has(self)", Want::Any, "invalid argument to has() macro"),
    ] {
        let error = environment.compile(source, want).expect_err(source).to_string();
        assert!(error.contains(expected), "{source}\n  expected {expected}\n  got      {error}");
    }
}
