use proptest::prelude::*;

use super::*;

fn parse(method: Method, uri: &str) -> RequestInfo {
    RequestInfo::parse(&method, &uri.parse().unwrap()).unwrap()
}

/// Verb, group, version, namespace, resource, name, subresource.
type Shape<'a> = (Verb, &'a str, &'a str, &'a str, &'a str, &'a str, &'a str);

fn shape(info: &RequestInfo) -> Shape<'_> {
    (
        info.verb,
        &info.group,
        &info.version,
        info.namespace.as_deref().unwrap_or_default(),
        info.resource.as_deref().unwrap_or_default(),
        info.name.as_deref().unwrap_or_default(),
        info.subresource.as_deref().unwrap_or_default(),
    )
}

#[test]
fn resource_paths_of_every_form() {
    let cases: &[(Method, &str, Shape<'_>)] = &[
        (Method::GET, "/api/v1/namespaces", (Verb::List, "", "v1", "", "namespaces", "", "")),
        (Method::GET, "/api/v1/namespaces/other", (Verb::Get, "", "v1", "other", "namespaces", "other", "")),
        (Method::GET, "/api/v1/namespaces/other/pods", (Verb::List, "", "v1", "other", "pods", "", "")),
        (Method::GET, "/api/v1/namespaces/other/pods/foo", (Verb::Get, "", "v1", "other", "pods", "foo", "")),
        (Method::HEAD, "/api/v1/namespaces/other/pods/foo", (Verb::Get, "", "v1", "other", "pods", "foo", "")),
        (Method::GET, "/api/v1/pods", (Verb::List, "", "v1", "", "pods", "", "")),
        (Method::GET, "/api/v1/pods?watch=true", (Verb::Watch, "", "v1", "", "pods", "", "")),
        (Method::GET, "/api/v1/pods?watch=1", (Verb::Watch, "", "v1", "", "pods", "", "")),
        (Method::GET, "/api/v1/pods?watch=false", (Verb::List, "", "v1", "", "pods", "", "")),
        (Method::GET, "/api/v1/watch/pods", (Verb::Watch, "", "v1", "", "pods", "", "")),
        (
            Method::GET,
            "/apis/apps/v1/watch/namespaces/other/deployments/web",
            (Verb::Watch, "apps", "v1", "other", "deployments", "web", ""),
        ),
        (Method::PUT, "/api/v1/namespaces/a/finalize", (Verb::Update, "", "v1", "a", "namespaces", "a", "finalize")),
        (Method::PATCH, "/api/v1/namespaces/a/status", (Verb::Patch, "", "v1", "a", "namespaces", "a", "status")),
        (
            Method::POST,
            "/api/v1/namespaces/a/pods/foo/binding",
            (Verb::Create, "", "v1", "a", "pods", "foo", "binding"),
        ),
        (Method::DELETE, "/api/v1/namespaces/a/pods", (Verb::DeleteCollection, "", "v1", "a", "pods", "", "")),
        (Method::DELETE, "/api/v1/nodes/n1", (Verb::Delete, "", "v1", "", "nodes", "n1", "")),
        (
            Method::GET,
            "/apis/apps/v1/namespaces/a/deployments/web/scale",
            (Verb::Get, "apps", "v1", "a", "deployments", "web", "scale"),
        ),
        (
            Method::GET,
            "/api/v1/pods?fieldSelector=metadata.name%3Dfoo&watch=true",
            (Verb::Watch, "", "v1", "", "pods", "foo", ""),
        ),
    ];
    for (method, uri, want) in cases {
        let info = parse(method.clone(), uri);
        assert!(info.is_resource_request, "{uri}");
        assert_eq!(shape(&info), *want, "{uri}");
    }
}

#[test]
fn paths_outside_resources_keep_the_method() {
    for uri in
        ["/", "/api", "/api/v1", "/apis", "/apis/apps", "/apis/apps/v1", "/version", "/healthz/etcd", "/apix/v1/pods"]
    {
        let info = parse(Method::GET, uri);
        assert!(!info.is_resource_request, "{uri}");
        assert_eq!((info.verb, info.path.as_str()), (Verb::Get, uri));
    }
    assert_eq!(parse(Method::POST, "/metrics").verb, Verb::Post);
}

#[test]
fn a_proxy_keeps_the_rest_of_its_path_as_sent() {
    let info = parse(Method::GET, "/api/v1/namespaces/a/services/https:web:443/proxy/x%20y/z/?q=1");
    assert_eq!(info.name.as_deref(), Some("https:web:443"));
    assert_eq!(info.subresource.as_deref(), Some("proxy"));
    assert_eq!(info.trailing_path, "x%20y/z/");
    assert_eq!(parse(Method::GET, "/api/v1/nodes/n1/proxy").trailing_path, "");
}

#[test]
fn bad_encoding_is_a_bad_request() {
    for uri in ["/api/v1/pods/%zz", "/api/v1/pods/%", "/api/v1/pods/%a", "/api/v1/pods?x=%f", "/api/v1/pods/%ff"] {
        let error = RequestInfo::parse(&Method::GET, &uri.parse().unwrap()).unwrap_err();
        assert_eq!(error.code(), 400, "{uri}");
        assert!(error.message().starts_with("invalid URL escape"), "{}", error.message());
    }
}

#[test]
fn names_that_would_leave_their_place_are_refused() {
    for uri in ["/api/v1/namespaces/a%2Fb/pods", "/api/v1/nodes/..", "/api/v1/nodes/a%2Fb", "/api/v1/nodes/a%00"] {
        assert_eq!(RequestInfo::parse(&Method::GET, &uri.parse().unwrap()).unwrap_err().code(), 400, "{uri}");
    }
}

#[test]
fn a_query_is_decoded_and_keeps_its_order() {
    let query = Query::parse("labelSelector=a%3Db%2Cc&x=1&x=2&plus=a+b&flag").unwrap();
    assert_eq!(query.get("labelSelector"), Some("a=b,c"));
    assert_eq!(query.all("x").collect::<Vec<_>>(), ["1", "2"]);
    assert_eq!(query.get("plus"), Some("a b"));
    assert_eq!(query.get("flag"), Some(""));
    assert_eq!(query.get("none"), None);
}

proptest! {
    #[test]
    fn no_path_makes_it_panic(path in "[/a-z0-9%.:?&=+-]{0,60}", prefix in prop::sample::select(vec!["/", "/api/v1/", "/apis/apps/v1/", "/api/v1/namespaces/"])) {
        if let Ok(uri) = format!("{prefix}{path}").parse::<Uri>() {
            for method in [Method::GET, Method::POST, Method::DELETE, Method::TRACE] {
                let _ = RequestInfo::parse(&method, &uri);
            }
        }
    }

    #[test]
    fn any_name_survives_encoding(name in "[a-zA-Z0-9 :äöü_+-]{1,20}") {
        let encoded: String = name.bytes().map(|b| format!("%{b:02X}")).collect();
        let info = parse(Method::GET, &format!("/api/v1/nodes/{encoded}"));
        prop_assert_eq!(info.name.as_deref(), Some(name.as_str()));
    }
}
