//! Bodies that are too large or too deep.

use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use http::Method;
use serde_json::Value;
use skep_tests::bench::client::{Client, load};
use tokio::time::timeout;

use crate::world::{LONG, MAPS, map, run};

const JSON: &str = "application/json";
const YAML: &str = "application/yaml";
const MERGE: &str = "application/merge-patch+json";
const STRATEGIC: &str = "application/strategic-merge-patch+json";
const PATCHES: &str = "application/json-patch+json";
const APPLY: &str = "application/apply-patch+yaml";
const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

/// A request that must be refused.
struct Case {
    what: &'static str,
    method: Method,
    path: String,
    media_type: &'static str,
    body: Bytes,
    /// The codes of a refusal.
    codes: &'static [u16],
}

#[test]
fn bodies_that_are_too_large_or_too_deep_are_refused_and_nobody_else_waits() -> Result<()> {
    const ROUNDS: usize = 4;
    const AT_ONCE: usize = 8;
    run(async |world| {
        let client = Arc::new(world.client(4).await?);
        client.expect(Method::POST, MAPS, map("target", "")).await?;
        let mut cases = creations();
        cases.extend(changes());
        let largest = cases.iter().map(|case| case.body.len()).max().unwrap_or_default() as f64 / 1e6;
        let (total, cases) = (cases.len() * ROUNDS, Arc::new(cases));
        let growth = world.growth()?;
        let abuse = async {
            let operation = move |number: usize| {
                let (client, cases) = (Arc::clone(&client), Arc::clone(&cases));
                async move { cases[number % cases.len()].is_refused(&client).await }
            };
            load(AT_ONCE, total, operation).await.map(drop)
        };
        world.while_others_are_served(abuse).await?;
        // What was parsed of a body takes more room than its text, but never without a bound.
        growth.below(AT_ONCE as f64 * largest * 12.0).map(drop)
    })
}

impl Case {
    async fn is_refused(&self, client: &Client) -> Result<()> {
        let sent = client.send_typed(self.method.clone(), &self.path, self.media_type, self.body.clone());
        let (status, answer) = timeout(LONG, sent)
            .await
            .with_context(|| format!("{}: no answer", self.what))?
            .with_context(|| self.what.to_owned())?;
        let text = String::from_utf8_lossy(&answer[..answer.len().min(300)]);
        let what = format!("{}: {status}: {text}", self.what);
        ensure!(self.codes.contains(&status.as_u16()), "{what}");
        let told: Value = serde_json::from_slice(&answer).context(what.clone())?;
        ensure!(told["kind"] == "Status" && told["code"] == status.as_u16(), "{what}");
        ensure!(told["message"].as_str().is_some_and(|message| !message.is_empty()), "{what}");
        ensure!(answer.len() < 1 << 20, "{}: the refusal has {} bytes", self.what, answer.len());
        Ok(())
    }
}

/// What is not created.
fn creations() -> Vec<Case> {
    let case = |what, media_type, body: String, codes| Case {
        what,
        method: Method::POST,
        path: MAPS.to_owned(),
        media_type,
        body: body.into(),
        codes,
    };
    let text = |size: usize| "x".repeat(size);
    // More than etcd takes, less than the server reads.
    let large = format!(
        r#"{{"metadata":{{"name":"large"}},"data":{{"a":"{}"}},"binaryData":{{"b":"{}"}}}}"#,
        text(900_000),
        "eHh4".repeat(400_000)
    );
    let owners = format!(r#"{{"metadata":{{"name":"o","ownerReferences":[{}]}}}}"#, many(300_000));
    let laughs = (1..12).fold("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n".to_owned(), |text, number| {
        let aliases = vec![format!("*a{}", number - 1); 10].join(",");
        format!("{text}a{number}: &a{number} [{aliases}]\n")
    });
    let named = nested("{\"a\":", "}", 100_000);
    let unknown = format!(r#"{{"metadata":{{"name":"deep","what":{named}}}}}"#);
    vec![
        case("2 MiB", JSON, large, &[413, 422]),
        case("4 MiB", JSON, format!(r#"{{"data":{{"a":"{}"}}}}"#, text(4 << 20)), &[413]),
        case("deep JSON", JSON, nested("[", "]", 400_000), &[400]),
        Case { path: format!("{MAPS}?fieldValidation=Strict"), ..case("deep unknown field", JSON, unknown, &[400]) },
        case("deep YAML", YAML, nested("[", "]", 400_000), &[400]),
        case(
            "deep blocks of YAML",
            YAML,
            (0..2000).map(|depth| format!("{}a:\n", " ".repeat(depth))).collect(),
            &[400],
        ),
        case("laughing YAML", YAML, laughs, &[400, 413, 422]),
        case("deep protobuf", PROTOBUF, format!("k8s\0{}", "\n\u{7f}".repeat(100_000)), &[400]),
        case("many owners", JSON, owners, &[413, 422]),
    ]
}

/// What does not change an object.
fn changes() -> Vec<Case> {
    let target = format!("{MAPS}/target");
    let case = |what, query: &str, media_type, body: String, codes| Case {
        what,
        method: Method::PATCH,
        path: format!("{target}{query}"),
        media_type,
        body: body.into(),
        codes,
    };
    let deep = || nested("{\"a\":", "}", 200_000);
    let copies = vec![r#"{"op":"copy","from":"/data","path":"/data/more"}"#; 25].join(",");
    vec![
        case("deep merge patch", "", MERGE, deep(), &[400]),
        case("deep strategic patch", "", STRATEGIC, deep(), &[400]),
        case("deep apply", "?fieldManager=t", APPLY, nested("{a: ", "}", 200_000), &[400]),
        case("deep JSON patch", "", PATCHES, nested("[", "]", 400_000), &[400]),
        case("many operations", "", PATCHES, format!("[{}]", many(300_000)), &[400, 413, 422]),
        case("doubling copies", "", PATCHES, format!("[{copies}]"), &[400, 413, 422]),
    ]
}

fn nested(open: &str, close: &str, depth: usize) -> String {
    format!("{}1{}", open.repeat(depth), close.repeat(depth))
}

fn many(count: usize) -> String {
    vec!["{}"; count].join(",")
}
