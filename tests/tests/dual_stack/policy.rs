//! NetworkPolicy holds for both families.

use anyhow::{Result, ensure};
use skep_tests::cluster::{LIMIT, Shape, TestCluster};
use xtask::wait;

use crate::{Web, apply_webs, at, in_pod, patient};

/// Waits until `from` reaches `to` at exactly those of its addresses that `expected` says.
fn wait_reached(cluster: &TestCluster, from: &str, to: &Web, expected: &[bool]) -> Result<()> {
    wait::until(&format!("{} reached from {from} at {expected:?}", to.name), LIMIT, || {
        let mut reached = Vec::new();
        for address in &to.addresses {
            let done = patient(&in_pod(cluster, from, &["get", &at(*address, 8080)])).output()?;
            reached.push(done.status.success() && String::from_utf8_lossy(&done.stdout).trim() == to.name);
        }
        ensure!(reached == expected, "reached were {reached:?} of {:?}", to.addresses);
        Ok(())
    })
}

#[test]
fn default_deny_holds_for_both_families_and_blocks_open_one() -> Result<()> {
    let cluster = TestCluster::start_shape(&Shape::dual_stack(2))?;
    let webs = apply_webs(&cluster)?;
    let [first, second] = webs.as_slice() else { anyhow::bail!("not two pods") };
    wait_reached(&cluster, &first.name, second, &[true, true])?;
    let policy = |name: &str, spec: &str| {
        cluster.apply(&format!(
            "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{ name: {name} }}\nspec: {spec}\n"
        ))
    };
    policy("deny", "{ podSelector: {}, policyTypes: [Ingress] }")?;
    wait_reached(&cluster, &first.name, second, &[false, false])?;
    // The node asks on: probes stay in, over either family.
    let node = cluster.nodes()[1];
    for address in &second.addresses {
        let mut ask = cluster.toolbox_on(node, &["get", &at(*address, 8080)]);
        ensure!(patient(&ask).status()?.success(), "its own node did not reach it at {address}: {:?}", ask.output()?);
    }
    policy("allow", "{ podSelector: {}, ingress: [{ from: [{ podSelector: { matchLabels: { name: web-1 } } }] }] }")?;
    wait_reached(&cluster, &first.name, second, &[true, true])?;
    // A block is of one family.
    let block = "{ podSelector: {}, ingress: [{ from: [{ ipBlock: { cidr: 'fd00:113::/32' } }] }] }";
    policy("allow", block)?;
    wait_reached(&cluster, &first.name, second, &[false, true])?;
    // Egress, with both families again.
    cluster.kubectl(&["delete", "networkpolicy", "deny", "allow"])?;
    wait_reached(&cluster, &first.name, second, &[true, true])?;
    policy("egress", "{ podSelector: { matchLabels: { name: web-1 } }, policyTypes: [Egress] }")?;
    wait_reached(&cluster, &first.name, second, &[false, false])?;
    wait_reached(&cluster, &second.name, first, &[true, true])
}
