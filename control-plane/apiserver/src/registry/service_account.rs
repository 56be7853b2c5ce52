//! ServiceAccounts.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ServiceAccount;
use serde_json::{Value, json};
use skep_api::resource::ResourceInfo;

use super::checks::text;
use super::strategy::{Column, Strategy, age};
use super::table_info::info;

/// The strategy of service accounts.
#[derive(Debug)]
pub(crate) struct ServiceAccounts;

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new(
        "Secrets",
        "string",
        "Secrets is a list of the secrets in the same namespace that pods running using this ServiceAccount are allowed to \
         use. Pods are only limited to this list if this service account has a \"kubernetes.io/enforce-mountable-secrets\" \
         annotation set to \"true\".",
    ),
    Column::AGE,
];

impl Strategy for ServiceAccounts {
    type Object = ServiceAccount;

    fn info(&self) -> &'static ResourceInfo {
        info("", "serviceaccounts")
    }

    fn prefix(&self) -> &'static str {
        "/registry/serviceaccounts/"
    }

    fn returns_deleted_object(&self) -> bool {
        true
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn row(&self, account: &ServiceAccount, now: Timestamp) -> Vec<Value> {
        vec![
            json!(text(&account.metadata.name)),
            json!(account.secrets.as_ref().map_or(0, Vec::len)),
            json!(age(account.metadata.creation_timestamp.as_ref().map(|t| t.0), now)),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_counts_secrets() {
        let account =
            serde_json::from_value(json!({"metadata": {"name": "robot"}, "secrets": [{"name": "a"}]})).unwrap();
        assert_eq!(ServiceAccounts.row(&account, Timestamp::UNIX_EPOCH)[..2], [json!("robot"), json!(1)]);
    }
}
