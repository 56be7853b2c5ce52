//! In which order groups and versions are told, and preferred by clients that may choose.

/// A group, its priority, and its versions with theirs.
type Group = (&'static str, i32, &'static [(&'static str, i32)]);

/// Of groups this server answers for: upstream's figures.
const BUILT_IN: &[Group] = &[
    ("", 18_000, &[("v1", 1)]),
    ("apps", 17_800, &[("v1", 15)]),
    ("events.k8s.io", 17_750, &[("v1", 15)]),
    ("authentication.k8s.io", 17_700, &[("v1", 15)]),
    ("authorization.k8s.io", 17_600, &[("v1", 15)]),
    ("autoscaling", 17_500, &[("v1", 15), ("v2", 30)]),
    ("batch", 17_400, &[("v1", 15)]),
    ("certificates.k8s.io", 17_300, &[("v1", 15)]),
    ("networking.k8s.io", 17_200, &[("v1", 15)]),
    ("policy", 17_100, &[("v1", 15)]),
    ("rbac.authorization.k8s.io", 17_000, &[("v1", 15)]),
    ("storage.k8s.io", 16_800, &[("v1", 15)]),
    ("apiextensions.k8s.io", 16_700, &[("v1", 15)]),
    ("admissionregistration.k8s.io", 16_700, &[("v1", 15)]),
    ("scheduling.k8s.io", 16_600, &[("v1", 15)]),
    ("coordination.k8s.io", 16_500, &[("v1", 15)]),
    ("node.k8s.io", 16_300, &[("v1", 15)]),
    ("discovery.k8s.io", 16_200, &[("v1", 15)]),
    ("flowcontrol.apiserver.k8s.io", 16_100, &[("v1", 21)]),
    ("resource.k8s.io", 15_900, &[("v1", 15)]),
    // The aggregator's own group comes first, and has no APIService.
    ("apiregistration.k8s.io", 18_000, &[("v1", 15)]),
];
/// Of groups of custom resources.
const CUSTOM: (i32, i32) = (1000, 100);

/// The priorities of a group and one of its versions, where no APIService says otherwise.
pub(crate) fn of(group: &str, version: &str) -> (i32, i32) {
    let Some((_, priority, versions)) = BUILT_IN.iter().find(|(own, ..)| *own == group) else { return CUSTOM };
    let own = versions.iter().find(|(own, _)| *own == version);
    (*priority, own.map_or(1, |(_, priority)| *priority))
}
