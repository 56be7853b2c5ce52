//! A pod's resolver settings by its dnsPolicy, and its hosts file.

use k8s_openapi::api::core::v1::Pod;
use skep_cri::api::DnsConfig;

use crate::Config;
use crate::podext::PodExt;

/// Limits of common resolvers, upstream's validation.
const MAX_SERVERS: usize = 3;
const MAX_SEARCHES: usize = 32;

/// Settings of the pod; `host` is the content of the node's resolv.conf.
pub(crate) fn pod_dns(pod: &Pod, config: &Config, host: &str) -> DnsConfig {
    let spec = pod.pod_spec();
    let host = parse_resolv_conf(host);
    let policy = match spec.dns_policy.as_deref().unwrap_or("ClusterFirst") {
        "ClusterFirst" if pod.host_network() => "Default",
        "ClusterFirstWithHostNet" => "ClusterFirst",
        // Without a cluster DNS there is only the node's, as upstream falls back.
        "ClusterFirst" if config.cluster_dns.is_empty() => "Default",
        other => other,
    };
    let mut dns = match policy {
        "None" => DnsConfig::default(),
        "ClusterFirst" => {
            let domain = &config.cluster_domain;
            let mut searches = vec![format!("{}.svc.{domain}", pod.ns()), format!("svc.{domain}"), domain.clone()];
            searches.extend(host.searches);
            DnsConfig {
                servers: config.cluster_dns.iter().map(ToString::to_string).collect(),
                searches,
                options: vec!["ndots:5".to_owned()],
            }
        }
        _ => host,
    };
    if let Some(extra) = &spec.dns_config {
        dns.servers.extend(extra.nameservers.iter().flatten().cloned());
        dns.searches.extend(extra.searches.iter().flatten().cloned());
        for option in extra.options.iter().flatten() {
            let name = option.name.as_deref().unwrap_or_default();
            dns.options.retain(|known| known.split(':').next() != Some(name));
            dns.options.push(match &option.value {
                Some(value) => format!("{name}:{value}"),
                None => name.to_owned(),
            });
        }
    }
    dedup(&mut dns.servers);
    dedup(&mut dns.searches);
    dns.servers.truncate(MAX_SERVERS);
    dns.searches.truncate(MAX_SEARCHES);
    dns
}

fn dedup(list: &mut Vec<String>) {
    let mut seen = std::collections::HashSet::new();
    list.retain(|item| seen.insert(item.clone()));
}

fn parse_resolv_conf(text: &str) -> DnsConfig {
    let mut dns = DnsConfig::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => dns.servers.extend(words.next().map(str::to_owned)),
            Some("search") => dns.searches = words.map(|word| word.trim_end_matches('.').to_owned()).collect(),
            Some("options") => dns.options = words.map(str::to_owned).collect(),
            _ => {}
        }
    }
    dns.searches.retain(|domain| !domain.is_empty());
    dns
}

/// Host name of the pod's own UTS namespace.
pub(crate) fn hostname(pod: &Pod) -> String {
    let spec = pod.pod_spec();
    let name = spec.hostname_override.as_deref().or(spec.hostname.as_deref()).unwrap_or(pod.pod_name());
    // The kernel takes 63 bytes; names are ASCII.
    name.get(..63).unwrap_or(name).trim_end_matches(['-', '.']).to_owned()
}

/// The pod's `/etc/hosts`; `node` is the node's own file, which pods in its network share.
pub(crate) fn hosts_file(pod: &Pod, config: &Config, ips: &[String], node: &str) -> String {
    let mut text = if pod.host_network() {
        format!("# Kubernetes-managed hosts file (host network).\n{node}")
    } else {
        let mut text = "# Kubernetes-managed hosts file.\n\
            127.0.0.1\tlocalhost\n\
            ::1\tlocalhost ip6-localhost ip6-loopback\n\
            fe00::0\tip6-localnet\n\
            fe00::0\tip6-mcastprefix\n\
            fe00::1\tip6-allnodes\n\
            fe00::2\tip6-allrouters\n"
            .to_owned();
        let hostname = hostname(pod);
        let subdomain = pod.pod_spec().subdomain.as_deref().filter(|name| !name.is_empty());
        for ip in ips {
            text.push_str(&match subdomain {
                Some(sub) => format!("{ip}\t{hostname}.{sub}.{}.svc.{}\t{hostname}\n", pod.ns(), config.cluster_domain),
                None => format!("{ip}\t{hostname}\n"),
            });
        }
        text
    };
    let aliases = pod.pod_spec().host_aliases.as_deref().unwrap_or_default();
    if !aliases.is_empty() {
        text.push_str("\n# Entries added by HostAliases.\n");
        for alias in aliases {
            text.push_str(&format!("{}\t{}\n", alias.ip, alias.hostnames.as_deref().unwrap_or_default().join("\t")));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const HOST: &str = "# by hand\nnameserver 192.0.2.1\nsearch example.org.\noptions edns0\n";

    fn pod(spec: serde_json::Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "d"}, "spec": spec})).unwrap()
    }

    fn config() -> Config {
        let mut config = Config::new("n", [127, 0, 0, 1].into(), "/tmp");
        config.cluster_dns = vec![[10, 96, 0, 10].into()];
        config
    }

    #[test]
    fn cluster_first_asks_the_cluster_and_searches_the_namespace_first() {
        let dns = pod_dns(&pod(json!({"containers": []})), &config(), HOST);
        assert_eq!(dns.servers, ["10.96.0.10"]);
        assert_eq!(dns.searches, ["d.svc.cluster.local", "svc.cluster.local", "cluster.local", "example.org"]);
        assert_eq!(dns.options, ["ndots:5"]);
    }

    #[test]
    fn host_network_and_default_use_the_nodes_resolver() {
        for spec in [json!({"containers": [], "hostNetwork": true}), json!({"containers": [], "dnsPolicy": "Default"})]
        {
            let dns = pod_dns(&pod(spec), &config(), HOST);
            assert_eq!((dns.servers, dns.searches), (vec!["192.0.2.1".to_owned()], vec!["example.org".to_owned()]));
        }
    }

    #[test]
    fn none_takes_only_what_the_pod_says() {
        let spec = json!({"containers": [], "dnsPolicy": "None", "dnsConfig": {
            "nameservers": ["1.2.3.4"], "searches": ["a.b"], "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}]}});
        let dns = pod_dns(&pod(spec), &config(), HOST);
        assert_eq!(
            (dns.servers.as_slice(), dns.options.as_slice()),
            (&["1.2.3.4".to_owned()][..], &["ndots:2".to_owned(), "edns0".to_owned()][..])
        );
    }

    #[test]
    fn the_hosts_file_names_the_pod_and_its_aliases() {
        let spec =
            json!({"containers": [], "subdomain": "s", "hostAliases": [{"ip": "1.1.1.1", "hostnames": ["a", "b"]}]});
        let text = hosts_file(&pod(spec), &config(), &["10.0.0.2".into()], "");
        assert!(text.contains("10.0.0.2\tp.s.d.svc.cluster.local\tp\n"), "{text}");
        assert!(text.ends_with("\n# Entries added by HostAliases.\n1.1.1.1\ta\tb\n"), "{text}");
    }
}
