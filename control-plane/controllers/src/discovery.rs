//! Which resource types the API server has: what the garbage collector watches and the namespace controller empties.

use kube::Client;
use kube::discovery::ApiResource;

use crate::error::{Context as _, Error};

/// One resource type, in its group's preferred version.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ResourceType {
    pub(crate) resource: ApiResource,
    pub(crate) namespaced: bool,
    pub(crate) verbs: Vec<String>,
}

impl ResourceType {
    pub(crate) fn supports(&self, verb: &str) -> bool {
        self.verbs.iter().any(|known| known == verb)
    }

    /// `deployments.apps`; the core group leaves the dot at the end, as upstream prints it.
    pub(crate) fn group_resource(&self) -> String {
        format!("{}.{}", self.resource.plural, self.resource.group)
    }
}

/// The types, and the groups whose discovery failed (with the reason).
pub(crate) struct Discovered {
    pub(crate) types: Vec<ResourceType>,
    pub(crate) failed: Vec<(String, Error)>,
}

/// Asks the API server for all types. Fails only if not even the groups can be read.
pub(crate) async fn discover(client: &Client) -> Result<Discovered, Error> {
    let groups = client.list_api_groups().await.context(|| "discovering API groups".to_owned())?;
    let mut versions = vec!["v1".to_owned()];
    versions.extend(groups.groups.into_iter().filter_map(|group| {
        group.preferred_version.or_else(|| group.versions.into_iter().next()).map(|version| version.group_version)
    }));
    let mut found = Discovered { types: Vec::new(), failed: Vec::new() };
    for group_version in versions {
        let list = if group_version.contains('/') {
            client.list_api_group_resources(&group_version).await
        } else {
            client.list_core_api_resources(&group_version).await
        };
        match list.context(|| format!("discovering {group_version}")) {
            Ok(list) => {
                found.types.extend(list.resources.into_iter().filter(|r| !r.name.contains('/')).map(|resource| {
                    let (group, version) = group_version.split_once('/').unwrap_or(("", group_version.as_str()));
                    ResourceType {
                        resource: ApiResource {
                            group: group.to_owned(),
                            version: version.to_owned(),
                            api_version: group_version.clone(),
                            kind: resource.kind,
                            plural: resource.name,
                        },
                        namespaced: resource.namespaced,
                        verbs: resource.verbs,
                    }
                }))
            }
            Err(error) => found.failed.push((group_version, error)),
        }
    }
    Ok(found)
}
