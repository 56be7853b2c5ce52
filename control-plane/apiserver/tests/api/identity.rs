//! Tokens, reviews and acting as somebody else.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};
use skep_apiserver::UserInfo;
use tower::ServiceExt;

use crate::support::{TestServer, pod};

const ACCOUNT: &str = "/api/v1/namespaces/default/serviceaccounts/default";
const REVIEWS: &str = "/apis/authorization.k8s.io/v1";
const WHOAMI: &str = "/apis/authentication.k8s.io/v1/selfsubjectreviews";

/// A request of a connection without a certificate.
async fn ask(
    test: &TestServer,
    method: Method,
    uri: &str,
    headers: &[(&str, &str)],
    body: Value,
    user: Option<UserInfo>,
) -> (StatusCode, Value) {
    let mut request = Request::builder().method(method).uri(uri).header("content-type", "application/json");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let mut request = request.body(Full::new(Bytes::from(body))).unwrap();
    if let Some(user) = user {
        request.extensions_mut().insert(user);
    }
    let (parts, body) = test.server.service().oneshot(request).await.unwrap().into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    (parts.status, serde_json::from_slice(&body).unwrap_or_default())
}

/// Who the server takes the holder of a token for.
async fn who(test: &TestServer, token: &str) -> (StatusCode, Value) {
    let header = format!("Bearer {token}");
    let (code, body) =
        ask(test, Method::POST, WHOAMI, &[("authorization", &header)], json!({"metadata": {}}), None).await;
    (code, if code == 201 { body["status"]["userInfo"].clone() } else { body["message"].clone() })
}

async fn token(test: &TestServer, spec: Value) -> String {
    let body = test.create(&format!("{ACCOUNT}/token"), json!({"spec": spec})).await;
    body["status"]["token"].as_str().unwrap().to_owned()
}

fn claims(token: &str) -> Value {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_identifies_its_account_as_long_as_all_it_is_bound_to_is_there() {
    let test = TestServer::start().await;
    test.default_account().await;
    let plain = token(&test, json!({"audiences": null})).await;
    let (code, user) = who(&test, &plain).await;
    assert_eq!(code, 201, "{user}");
    assert_eq!(user["username"], "system:serviceaccount:default:default");
    let groups = ["system:serviceaccounts", "system:serviceaccounts:default", "system:authenticated"];
    assert_eq!(user["groups"], json!(groups));
    let id = user["extra"]["authentication.kubernetes.io/credential-id"][0].as_str().unwrap();
    assert_eq!(id, format!("JTI={}", claims(&plain)["jti"].as_str().unwrap()));
    assert_eq!(claims(&plain)["aud"], json!(["https://kubernetes.default.svc.cluster.local"]));

    // Not the holder's right to anything else.
    let header = format!("Bearer {plain}");
    let (code, body) = ask(&test, Method::GET, "/api/v1/pods", &[("authorization", &header)], Value::Null, None).await;
    assert_eq!(code, 403, "{body}");

    let mut bound = pod("p");
    bound["spec"]["nodeName"] = "n1".into();
    let bound = test.create("/api/v1/namespaces/default/pods", bound).await;
    let reference = json!({"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": bound["metadata"]["uid"]});
    let of_pod = token(&test, json!({"audiences": [], "boundObjectRef": reference, "expirationSeconds": 3607})).await;
    let (code, user) = who(&test, &of_pod).await;
    assert_eq!(code, 201, "{user}");
    assert_eq!(user["extra"]["authentication.kubernetes.io/pod-name"], json!(["p"]));
    assert_eq!(user["extra"]["authentication.kubernetes.io/node-name"], json!(["n1"]));
    let said = claims(&of_pod);
    assert_eq!(said["exp"].as_i64().unwrap() - said["iat"].as_i64().unwrap(), 365 * 24 * 3600);
    assert_eq!(said["kubernetes.io"]["warnafter"].as_i64().unwrap() - said["iat"].as_i64().unwrap(), 3607);
    let gone = "/api/v1/namespaces/default/pods/p?gracePeriodSeconds=0";
    assert_eq!(test.call(Method::DELETE, gone, Value::Null).await.0, 200);
    test.settle().await;
    assert_eq!(who(&test, &of_pod).await, (StatusCode::UNAUTHORIZED, json!("Unauthorized")));
    assert_eq!(who(&test, &plain).await.0, 201);

    // The same name is not the same account.
    assert_eq!(test.call(Method::DELETE, ACCOUNT, Value::Null).await.0, 200);
    test.default_account().await;
    test.settle().await;
    assert_eq!(who(&test, &plain).await, (StatusCode::UNAUTHORIZED, json!("Unauthorized")));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_token_of_this_server_is_nobody() {
    let test = TestServer::start().await;
    test.default_account().await;
    let good = token(&test, json!({"audiences": []})).await;
    let parts: Vec<&str> = good.split('.').collect();
    let forged = |header: Value, claims: Value| {
        let encode = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
        format!("{}.{}.", encode(header), encode(claims))
    };
    let mut master = claims(&good);
    master["sub"] = "system:serviceaccount:kube-system:admin".into();
    let other_key = skep_pki::Pki::load_or_create(tempfile::tempdir().unwrap().path(), &[]).unwrap();
    let other_key = skep_pki::jwt::Signer::from_pem("key", other_key.service_account_key()).unwrap();
    let own_key = skep_pki::jwt::Signer::from_pem("key", test.pki.service_account_key()).unwrap();
    let mut expired = claims(&good);
    expired["exp"] = (expired["iat"].as_i64().unwrap() - 3600).into();
    let mut early = claims(&good);
    early["nbf"] = (early["iat"].as_i64().unwrap() + 3600).into();
    let mut foreign = claims(&good);
    foreign["iss"] = "https://elsewhere.example".into();
    for (token, what) in [
        (forged(json!({"alg": "none"}), master.clone()), "unsigned"),
        (format!("{}.{}", forged(json!({"alg": "ES256"}), master).trim_end_matches('.'), parts[2]), "changed"),
        (other_key.sign(&claims(&good)).unwrap(), "signed with another key"),
        (own_key.sign(&expired).unwrap(), "expired"),
        (own_key.sign(&early).unwrap(), "early"),
        (own_key.sign(&foreign).unwrap(), "of another issuer"),
        (own_key.sign(&json!({"iss": "kubernetes/serviceaccount"})).unwrap(), "empty"),
        (token(&test, json!({"audiences": ["vault"]})).await, "for another audience"),
        ("abcdef.0123456789abcdef".to_owned(), "a bootstrap token nobody made"),
        ("garbage".to_owned(), "garbage"),
        ("a.b.c".to_owned(), "garbage in parts"),
    ] {
        assert_eq!(who(&test, &token).await, (StatusCode::UNAUTHORIZED, json!("Unauthorized")), "{what}");
    }
    assert_eq!(who(&test, &good).await.0, 201);
    // Another scheme is no token, and nobody's.
    let (code, body) = ask(&test, Method::GET, "/api", &[("authorization", "Basic YTpi")], Value::Null, None).await;
    assert_eq!(code, 403, "{body}");
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_for_tokens_are_checked() {
    let test = TestServer::start().await;
    test.default_account().await;
    let uri = format!("{ACCOUNT}/token");
    let refused = async |body: Value| {
        let (code, body) = test.call(Method::POST, &uri, body).await;
        (code.as_u16(), body["message"].as_str().unwrap_or_default().to_owned())
    };
    assert_eq!(
        refused(json!({"spec": {"audiences": [], "expirationSeconds": 599}})).await,
        (
            422,
            "TokenRequest.authentication.k8s.io \"\" is invalid: spec.expirationSeconds: Invalid value: 599: may not \
             specify a duration less than 10 minutes"
                .to_owned()
        )
    );
    let (code, why) = refused(json!({"spec": {"audiences": [], "expirationSeconds": 1_i64 << 33}})).await;
    assert!(code == 422 && why.ends_with("may not specify a duration larger than 2^32 seconds"), "{why}");
    let (code, why) = refused(json!({"metadata": {"name": "x"}, "spec": {"audiences": []}})).await;
    assert!(code == 422 && why.ends_with("must match the service account name if specified"), "{why}");
    let bound = |kind: &str, name: &str| json!({"spec": {"audiences": [], "boundObjectRef": {"apiVersion": "v1", "kind": kind, "name": name}}});
    assert_eq!(refused(bound("Pod", "none")).await, (404, "pods \"none\" not found".to_owned()));
    let (code, why) = refused(bound("ConfigMap", "x")).await;
    assert_eq!((code, why.as_str()), (400, "cannot bind token to object of type /v1, Kind=ConfigMap"));
    test.create("/api/v1/namespaces/default/serviceaccounts", json!({"metadata": {"name": "other"}})).await;
    let mut other = pod("p");
    other["spec"]["serviceAccountName"] = "other".into();
    test.create("/api/v1/namespaces/default/pods", other).await;
    let (code, why) = refused(bound("Pod", "p")).await;
    assert!(code == 400 && why.contains("pod running with different serviceaccount name"), "{why}");
    let mut reused = bound("Pod", "p");
    reused["spec"]["boundObjectRef"]["uid"] = "x".into();
    let answer = test.call(Method::POST, "/api/v1/namespaces/default/serviceaccounts/other/token", reused).await;
    assert_eq!(answer.0, 409, "{}", answer.1);
    assert_eq!(refused(json!({"spec": 1})).await.0, 400);
    let missing = test.call(Method::POST, &uri.replace("/default/token", "/none/token"), bound("Pod", "p")).await;
    assert_eq!(missing.0, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_published_for_others_to_verify_with() {
    let test = TestServer::start().await;
    test.default_account().await;
    let (code, document) = test.get("/.well-known/openid-configuration").await;
    assert_eq!(code, 200);
    assert_eq!(document["issuer"], "https://kubernetes.default.svc.cluster.local");
    assert_eq!(document["id_token_signing_alg_values_supported"], json!(["ES256"]));
    let (_, keys) = test.get("/openid/v1/jwks").await;
    let good = token(&test, json!({"audiences": []})).await;
    let header: Value =
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(good.split('.').next().unwrap()).unwrap()).unwrap();
    assert_eq!(keys["keys"][0]["kid"], header["kid"]);
    let reader = UserInfo::authenticated("x", ["system:serviceaccounts".to_owned()]);
    assert_eq!(test.call_as(&reader, Method::GET, "/openid/v1/jwks", Value::Null).await.0, 200);
    assert_eq!(test.call_as(&UserInfo::anonymous(), Method::GET, "/openid/v1/jwks", Value::Null).await.0, 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_get_the_token_of_their_account() {
    let test = TestServer::start().await;
    let account = json!({"metadata": {"name": "default"}, "imagePullSecrets": [{"name": "registry"}]});
    test.create("/api/v1/namespaces/default/serviceaccounts", account).await;
    let made = test.create("/api/v1/namespaces/default/pods", pod("a")).await;
    let volume = &made["spec"]["volumes"][0];
    assert!(volume["name"].as_str().unwrap().starts_with("kube-api-access-"), "{made}");
    assert_eq!(
        volume["projected"]["sources"][0]["serviceAccountToken"],
        json!({"path": "token", "expirationSeconds": 3607})
    );
    assert_eq!(made["spec"]["containers"][0]["volumeMounts"][0]["name"], volume["name"]);
    assert_eq!(made["spec"]["imagePullSecrets"], json!([{"name": "registry"}]));
    let mut without = pod("b");
    without["spec"]["automountServiceAccountToken"] = false.into();
    let made = test.create("/api/v1/namespaces/default/pods", without).await;
    assert!(made["spec"]["volumes"].is_null(), "{made}");
}

#[tokio::test(flavor = "multi_thread")]
async fn bootstrap_tokens_let_nodes_join() {
    let test = TestServer::start().await;
    let secret = json!({
        "metadata": {"name": "bootstrap-token-abcdef"},
        "type": "bootstrap.kubernetes.io/token",
        "stringData": {
            "token-id": "abcdef", "token-secret": "0123456789abcdef", "usage-bootstrap-authentication": "true",
            "auth-extra-groups": "system:bootstrappers:skep"},
    });
    test.create("/api/v1/namespaces/kube-system/secrets", secret).await;
    test.settle().await;
    let (code, user) = who(&test, "abcdef.0123456789abcdef").await;
    assert_eq!(code, 201, "{user}");
    assert_eq!(user["username"], "system:bootstrap:abcdef");
    assert_eq!(who(&test, "abcdef.0123456789abcdee").await.0, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn reviews_say_who_may_do_what() {
    let test = TestServer::start().await;
    let jane = UserInfo::authenticated("jane", []);
    let review = async |kind: &str, spec: Value, user: &UserInfo| {
        test.call_as(user, Method::POST, &format!("{REVIEWS}/{kind}"), json!({"spec": spec})).await
    };
    let pods = json!({"resourceAttributes": {"verb": "list", "resource": "pods", "namespace": "default"}});
    let (code, body) = review("selfsubjectaccessreviews", pods.clone(), &jane).await;
    assert_eq!((code.as_u16(), &body["status"]), (201, &json!({"allowed": false})));
    let (_, body) = review("selfsubjectaccessreviews", pods.clone(), &UserInfo::master("admin")).await;
    assert_eq!(body["status"], json!({"allowed": true}));
    let path = json!({"nonResourceAttributes": {"verb": "get", "path": "/version"}});
    let (_, body) = review("selfsubjectaccessreviews", path, &jane).await;
    assert_eq!(body["status"]["allowed"], true);
    let reason = body["status"]["reason"].as_str().unwrap();
    assert!(reason.starts_with("RBAC: allowed by ClusterRoleBinding \"system:"), "{reason}");

    let mut others = pods.clone();
    others["user"] = "system:kube-scheduler".into();
    assert_eq!(review("subjectaccessreviews", others.clone(), &jane).await.0, 403, "only some may ask about others");
    let admin = UserInfo::master("admin");
    let (_, body) = review("subjectaccessreviews", others.clone(), &admin).await;
    assert_eq!(
        body["status"]["reason"],
        "RBAC: allowed by ClusterRoleBinding \"system:kube-scheduler\" of ClusterRole \"system:kube-scheduler\" to User \
         \"system:kube-scheduler\""
    );
    let local = format!("{REVIEWS}/namespaces/default/localsubjectaccessreviews");
    let (_, body) = test.call(Method::POST, &local, json!({"spec": others.clone()})).await;
    assert_eq!(body["status"]["allowed"], true);
    others["resourceAttributes"]["namespace"] = "other".into();
    assert_eq!(test.call(Method::POST, &local, json!({"spec": others})).await.0, 422);
    let (code, body) = review("subjectaccessreviews", pods, &admin).await;
    assert_eq!(code, 422);
    assert!(body["message"].as_str().unwrap().contains("at least one of user or group must be specified"), "{body}");
    for bad in [json!({}), json!({"resourceAttributes": {}, "nonResourceAttributes": {}})] {
        assert_eq!(review("selfsubjectaccessreviews", bad, &jane).await.0, 422);
    }

    let (_, body) = review("selfsubjectrulesreviews", json!({"namespace": "default"}), &jane).await;
    let rules = body["status"]["resourceRules"].as_array().unwrap();
    let basic = |rule: &Value| rule["resources"].as_array().unwrap().contains(&json!("selfsubjectreviews"));
    assert!(rules.iter().any(basic), "{body}");
    assert_eq!(body["status"]["incomplete"], false);
    assert_eq!(review("selfsubjectrulesreviews", json!({}), &jane).await.0, 400);

    // In discovery, with the one verb they have.
    let (_, list) = test.get(REVIEWS).await;
    let kinds: Vec<_> = list["resources"].as_array().unwrap().iter().map(|r| r["kind"].as_str().unwrap()).collect();
    assert_eq!(
        kinds,
        ["LocalSubjectAccessReview", "SelfSubjectAccessReview", "SelfSubjectRulesReview", "SubjectAccessReview"]
    );
    assert_eq!(list["resources"][0]["verbs"], json!(["create"]));
    assert_eq!(test.get(&format!("{REVIEWS}/subjectaccessreviews")).await.0, 405);
}

#[tokio::test(flavor = "multi_thread")]
async fn token_reviews_tell_others_whose_a_token_is() {
    let test = TestServer::start().await;
    test.default_account().await;
    let review = async |spec: Value| {
        let uri = "/apis/authentication.k8s.io/v1/tokenreviews";
        test.call(Method::POST, uri, json!({"spec": spec})).await
    };
    let vault = token(&test, json!({"audiences": ["vault", "other"]})).await;
    let (code, body) = review(json!({"token": vault, "audiences": ["vault", "x"]})).await;
    assert_eq!(code, 201);
    assert_eq!(body["status"]["authenticated"], true, "{body}");
    assert_eq!(body["status"]["audiences"], json!(["vault"]));
    assert_eq!(body["status"]["user"]["username"], "system:serviceaccount:default:default");
    for spec in [json!({"token": vault}), json!({"token": vault, "audiences": ["x"]}), json!({"token": "garbage"})] {
        let (code, body) = review(spec).await;
        assert_eq!(code, 201);
        assert!(body["status"]["authenticated"].is_null() && body["status"]["error"].is_string(), "{body}");
    }
    assert_eq!(review(json!({})).await.0, 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_may_impersonate_acts_as_others() {
    let test = TestServer::start().await;
    let admin = || Some(UserInfo::master("admin"));
    let act = async |headers: &[(&str, &str)], user: Option<UserInfo>| {
        let (code, body) = ask(&test, Method::POST, WHOAMI, headers, json!({}), user).await;
        (code.as_u16(), if code == 201 { body["status"]["userInfo"].clone() } else { body["message"].clone() })
    };
    let headers = [
        ("impersonate-user", "jane"),
        ("impersonate-group", "dev"),
        ("impersonate-group", "ops"),
        ("impersonate-uid", "1"),
        ("impersonate-extra-example.com%2fscope", "view"),
    ];
    let (code, user) = act(&headers, admin()).await;
    assert_eq!(code, 201, "{user}");
    assert_eq!(
        user,
        json!({"username": "jane", "uid": "1", "groups": ["dev", "ops", "system:authenticated"],
               "extra": {"example.com/scope": ["view"]}})
    );
    let (_, user) = act(&[("impersonate-user", "system:serviceaccount:a:b")], admin()).await;
    assert_eq!(user["groups"], json!(["system:serviceaccounts", "system:serviceaccounts:a", "system:authenticated"]));
    // Nobody has no groups but that of nobodies, and may ask nothing.
    let (code, why) = act(&[("impersonate-user", "system:anonymous")], admin()).await;
    assert!(code == 403 && why.as_str().unwrap().contains("User \"system:anonymous\" cannot create"), "{why}");

    let (code, why) = act(&[("impersonate-user", "root")], Some(UserInfo::authenticated("jane", []))).await;
    assert_eq!(code, 403);
    assert_eq!(
        why,
        "users \"root\" is forbidden: User \"jane\" cannot impersonate resource \"users\" in API group \"\" at the cluster \
         scope"
    );
    let (code, _) = act(&[("impersonate-group", "system:masters")], admin()).await;
    assert_eq!(code, 500, "a group alone is nobody");
    // As somebody who may less.
    let (code, body) =
        ask(&test, Method::GET, "/api/v1/pods", &[("impersonate-user", "jane")], Value::Null, admin()).await;
    assert_eq!(code, 403, "{body}");
}
