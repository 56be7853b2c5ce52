//! Somebody else writes to the maps.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use aya::Pod;
use aya::maps::lpm_trie::Key;
use aya::maps::{HashMap, LpmTrie, Map, MapData};
use skep_ebpf_common::{
    Address, AddressValue, BackendValue, FrontendKey, FrontendValue, ServiceValue, SlotKey, SlotValue, SourceRange,
    TCP, mapped, port,
};
use skep_tests::cluster::{Shape, TestCluster};
use skep_tests::hammer::Hammer;
use skep_tests::scrape;
use xtask::cluster::Cluster;
use xtask::wait;

use crate::{MENDED, pod, service, wait_node_hears, wait_outside_hears};

/// A load balancer's address that is open to the client outside alone.
const BALANCER: &str = "203.0.113.10";
const OUTSIDE: &str = "10.111.0.100";

/// The Services, by which entries of each are changed.
const SERVICES: [&str; 5] = ["untouched", "frontend", "slots", "backend", "service"];

/// The self-check's period, and time to do it.
const PERIOD: Duration = Duration::from_secs(75);

fn address(number: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 112, 0, 60 + number as u8)
}

#[test]
fn what_somebody_else_does_to_the_maps_is_mended_and_counted() -> Result<()> {
    let cluster = TestCluster::start_shape(&Shape::nodes(1))?;
    let mut manifest = pod(&cluster, "web", "web", 1, "serve");
    for (number, name) in SERVICES.iter().enumerate() {
        manifest += &service(name, "web", &address(number).to_string(), 30_560 + number as u16);
    }
    manifest += &service("ranges", "web", "10.112.0.70", 30_570)
        .replace("  type: NodePort", &format!("  type: LoadBalancer\n  loadBalancerSourceRanges: [{OUTSIDE}/32]"));
    cluster.apply(&manifest)?;
    let status = format!(r#"{{"status":{{"loadBalancer":{{"ingress":[{{"ip":"{BALANCER}"}}]}}}}}}"#);
    cluster.kubectl(&["patch", "service", "ranges", "--subresource=status", "--type=merge", "-p", &status])?;
    cluster.outside()?.ip(&["route", "add", BALANCER, "via", "10.111.0.1"])?;
    cluster.wait_ready_pods("app=web", 1)?;
    let node = cluster.nodes()[0];
    let vips: Vec<String> = (0..SERVICES.len()).map(|number| format!("{}:80", address(number))).collect();
    for vip in &vips {
        wait_node_hears(&cluster, node, vip, "web")?;
    }
    let balancer = format!("{BALANCER}:80");
    wait_outside_hears(&cluster, &balancer, "web")?;
    ensure!(scrape::value(node, MENDED)? == 0.0, "the maps were mended before anybody touched them");
    let untouched = Hammer::start(cluster.toolbox_on(node, &["hammer", &vips[0]]))?;

    let changed = tamper(node)? + open_to_nobody(node)?;
    let silent = is_silent(cluster.outside_toolbox(&["probe", "11000"])?, &balancer)?;
    let asked: Vec<_> = SERVICES.iter().zip(&vips).skip(1).map(|(name, vip)| (name, cluster.ask(vip))).collect();
    // Unless the self-check came just then.
    if scrape::value(node, MENDED)? == 0.0 {
        ensure!(silent, "who is in no source range any more is answered");
        for (name, asked) in asked {
            ensure!(asked.is_err(), "{name} answers {asked:?} although its entries are damaged");
        }
    }
    wait::until("the self-check has come", PERIOD, || {
        let mended = scrape::value(node, MENDED)?;
        ensure!(mended == changed as f64, "{mended} of {changed} entries are mended");
        Ok(())
    })?;
    for vip in &vips {
        wait_node_hears(&cluster, node, vip, "web")?;
    }
    wait_outside_hears(&cluster, &balancer, "web")?;
    let heard = untouched.stop()?;
    ensure!(heard.errors.is_empty() && heard.answers.keys().eq(["web"]), "the untouched Service: {heard:?}");
    // What it found it has put right: there is nothing left for the next time.
    let [mended, services] =
        [MENDED, r#"skep_proxy_map_entries{map="SERVICES"}"#].map(|name| scrape::value(node, name));
    ensure!(mended? == changed as f64 && services? >= 2.0 * SERVICES.len() as f64);
    Ok(())
}

/// Damages the entries of TCP of each Service but the first; returns how many.
fn tamper(node: &Cluster) -> Result<usize> {
    let mut frontends: HashMap<_, FrontendKey, FrontendValue> = open(node, "FRONTENDS")?;
    let mut services: HashMap<_, u32, ServiceValue> = open(node, "SERVICES")?;
    let mut slots: HashMap<_, SlotKey, SlotValue> = open(node, "SLOTS")?;
    let mut backends: HashMap<_, u32, BackendValue> = open(node, "BACKENDS")?;
    let mut addresses: HashMap<_, Address, AddressValue> = open(node, "ADDRESSES")?;
    let key = |number| {
        let address = mapped(u32::from_ne_bytes(address(number).octets()));
        FrontendKey::new(address, port(80), TCP)
    };
    let mut ids = Vec::new();
    for (number, name) in SERVICES.iter().enumerate() {
        ids.push(frontends.get(&key(number), 0).with_context(|| format!("the frontend of {name}"))?.service);
    }
    let mut changed = 0;
    // Gone; and one that leads nowhere, and an address that is nobody's.
    frontends.remove(&key(1))?;
    let nowhere = FrontendKey::new(mapped(u32::from_ne_bytes([10, 112, 200, 200])), port(80), TCP);
    frontends.insert(nowhere, FrontendValue::sealed(&nowhere, 4_000_000, 1), 0)?;
    addresses.insert(nowhere.address, AddressValue { bits: 1, ..AddressValue::default() }, 0)?;
    changed += 3;
    // Gone.
    let keys: Vec<SlotKey> = slots.keys().flatten().filter(|slot| slot.service == ids[2]).collect();
    for key in &keys {
        slots.remove(key)?;
    }
    changed += keys.len();
    // Torn: the seal does not fit. The slot says which it is.
    let of_service = |slot: &(SlotKey, SlotValue)| slot.0.service == ids[3];
    let (_, slot) = slots.iter().flatten().find(of_service).context("a service without slots")?;
    let backend = backends.get(&slot.backend, 0)?;
    backends.insert(slot.backend, BackendValue { port: port(1), ..backend }, 0)?;
    changed += 1;
    // A generation that nobody wrote.
    let service = services.get(&ids[4], 0)?;
    services.insert(ids[4], ServiceValue { generation: service.generation + 7, ..service }, 0)?;
    Ok(changed + 1)
}

/// Takes the one source range away and puts another one there; returns how many entries that changed.
fn open_to_nobody(node: &Cluster) -> Result<usize> {
    let mut ranges: LpmTrie<_, SourceRange, u32> = map(node, "SOURCE_RANGES")?.try_into()?;
    let key = ranges.keys().next().context("there is no source range")??;
    let data = SourceRange { address: mapped(u32::from_ne_bytes([192, 0, 2, 1])), ..key.data() };
    ranges.remove(&key)?;
    ranges.insert(&Key::new(key.prefix_len(), data), 1, 0)?;
    Ok(2)
}

/// Does `toolbox probe` hear nothing at all there?
fn is_silent(mut probe: Command, address: &str) -> Result<bool> {
    let mut child = probe.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let mut questions = child.stdin.take().context("no input")?;
    questions.write_all(format!("0 tcp {address} 1\n").as_bytes())?;
    let mut line = String::new();
    let heard = BufReader::new(child.stdout.take().context("no output")?).read_line(&mut line);
    let _ = child.kill();
    child.wait()?;
    heard?;
    Ok(line.trim() == "0 silence")
}

fn open<K: Pod, V: Pod>(node: &Cluster, name: &str) -> Result<HashMap<MapData, K, V>> {
    Ok(map(node, name)?.try_into()?)
}

fn map(node: &Cluster, name: &str) -> Result<Map> {
    let layout = format!("v{}", skep_ebpf_common::LAYOUT_VERSION);
    let pin = node.spec().bpf_root.join(layout).join("maps").join(name);
    let data = MapData::from_pin(&pin).with_context(|| pin.display().to_string())?;
    Ok(Map::from_map_data(data)?)
}
