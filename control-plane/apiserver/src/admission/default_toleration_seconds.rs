//! DefaultTolerationSeconds: unless a pod says otherwise, it stays for five minutes on a node that is in trouble.

use k8s_openapi::api::core::v1::{Pod, Toleration};

use crate::registry::{checks::text, object::Object};

const KEYS: [&str; 2] = ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"];
const NO_EXECUTE: &str = "NoExecute";
const SECONDS: i64 = 300;

pub(super) fn tolerate(object: &mut dyn Object) {
    let Some(pod) = object.as_any_mut().downcast_mut::<Pod>() else { return };
    let tolerations = pod.spec.get_or_insert_default().tolerations.get_or_insert_default();
    for key in KEYS {
        let covers = |t: &Toleration| ["", key].contains(&text(&t.key)) && ["", NO_EXECUTE].contains(&text(&t.effect));
        if !tolerations.iter().any(covers) {
            tolerations.push(Toleration {
                key: Some(key.to_owned()),
                operator: Some("Exists".to_owned()),
                effect: Some(NO_EXECUTE.to_owned()),
                toleration_seconds: Some(SECONDS),
                value: None,
            });
        }
    }
}
