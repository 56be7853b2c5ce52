//! Changes, written into the maps in an order in which no packet meets a part of one.

mod check;
mod uses;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::Instant,
};

use ipnet::{IpNet, Ipv4Net};
use skep_ebpf_common::policy::{DeviceValue, IdentityName, PodName, PolicyState, device_flags, state_flags};

use crate::{
    Bypass, Changes, Endpoint, Entry, Error, Identity, Metrics, Mirror, PodId, Result, TableId,
    bypass::{Around, Place},
    kernel::{
        Maps,
        maps::{self, Rule, words},
        wait_for_programs,
    },
};

use self::uses::Uses;

/// The host's end of a pod's device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodDevice {
    /// Name.
    pub name: String,
    /// The kernel's number.
    pub index: u32,
    /// The addresses behind it: those with a route to it.
    pub addresses: Vec<IpAddr>,
}

/// Always in the map, as nobody's if no block names it: else IPv4 addresses, which the map keeps as `::ffff:a.b.c.d`, would
/// lie in a block such as `::/0`.
const ALL_IP4: IpNet = IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0));

/// Owner of the maps: keeps them equal to what all changes add up to.
#[derive(Debug)]
pub(crate) struct Programmer {
    maps: Maps,
    /// As it is in the map.
    state: PolicyState,
    /// What is written is of this generation; it is the state's once [`Programmer::come_into_force`] was called.
    generation: u32,
    /// What the maps should say.
    wanted: Mirror,
    uses: Uses,
    pods: HashMap<IpAddr, PodId>,
    present: Vec<PodDevice>,
    /// What `POLICY_DEVICES` says.
    devices: BTreeMap<u32, DeviceValue>,
    /// What could not be written, and is tried again.
    failed_prefixes: BTreeSet<IpNet>,
    failed_rules: BTreeSet<(TableId, Entry)>,
    failed_removals: BTreeSet<Rule>,
    unknown_closed: bool,
    /// As in [`PolicyState::tunnel`].
    tunnel: u32,
    around: Around,
    metrics: Metrics,
}

impl Programmer {
    /// Takes the maps over. What they say holds until [`Programmer::come_into_force`].
    pub(crate) fn new(mut maps: Maps, tunnel: Option<u16>, metrics: Metrics) -> Result<Self> {
        let state = maps.state()?;
        // A daemon that died while it wrote left a part of its generation.
        maps.remove_other_generations(state.generation)?;
        let mut programmer = Self {
            maps,
            state,
            generation: state.generation.wrapping_add(1),
            wanted: Mirror::default(),
            uses: Uses::default(),
            pods: HashMap::new(),
            present: Vec::new(),
            devices: BTreeMap::new(),
            failed_prefixes: BTreeSet::new(),
            failed_rules: BTreeSet::new(),
            failed_removals: BTreeSet::new(),
            unknown_closed: false,
            tunnel: tunnel.map_or(0, |port| port.to_be().into()),
            around: Around::default(),
            metrics,
        };
        programmer.write_identity(ALL_IP4);
        Ok(programmer)
    }

    /// There is a way around: it is kept closed to isolated pods.
    pub(crate) fn set_bypass(&mut self, bypass: Option<Arc<dyn Bypass>>) {
        self.around = Around::new(bypass);
    }

    /// Is a former daemon's word still enforced?
    pub(crate) fn enforces(&self) -> bool {
        self.state.flags & state_flags::ON != 0
    }

    /// Is everything written?
    pub(crate) fn is_settled(&self) -> bool {
        self.failed() == 0 && !self.around.is_behind()
    }

    fn failed(&self) -> usize {
        self.failed_prefixes.len() + self.failed_rules.len() + self.failed_removals.len()
    }

    /// Isolates devices that the former daemon did not know, until this one has come into force.
    pub(crate) fn close_unknown(&mut self) -> Result<()> {
        let flags = self.state.flags | state_flags::UNKNOWN_CLOSED;
        self.write_state(PolicyState { flags, ..self.state })
    }

    /// Makes what was written so far the generation in force, if it is not, and removes the former one.
    pub(crate) fn come_into_force(&mut self) -> Result<()> {
        if self.is_in_force() && self.enforces() {
            return Ok(());
        }
        let open = self.open_places(&self.devices);
        self.around.narrow(&open);
        // One word says which generation counts; it comes before the revision, under which flows are judged anew.
        let flags = self.flags() | state_flags::ON;
        self.write_state(PolicyState { generation: self.generation, flags, tunnel: self.tunnel, ..self.state })?;
        wait_for_programs();
        self.settle(true)?;
        self.around.widen(&open);
        self.forget_names();
        self.maps.remove_other_generations(self.generation)
    }

    /// Lets everything pass, as without policies.
    pub(crate) fn open_up(&mut self) -> Result<()> {
        let flags = self.state.flags & !state_flags::ON;
        self.write_state(PolicyState { flags, ..self.state })
    }

    /// Writes changes. What finds no room is counted, said, left out (which refuses) and tried again.
    pub(crate) fn apply(&mut self, changes: &Changes) -> Result<()> {
        let started = Instant::now();
        let mut revokes = changes.regions || self.uses.loses(&self.wanted, changes);
        let gone = self.uses.apply(&self.wanted, changes);
        self.wanted.apply(changes);
        for (address, endpoint) in &changes.endpoints {
            match (endpoint, changes.pods.get(address)) {
                (Some(_), Some(pod)) => drop(self.pods.insert(*address, pod.clone())),
                _ => drop(self.pods.remove(address)),
            }
        }
        let mut added = BTreeSet::new();
        let mut removed = BTreeSet::new();
        for change in &changes.tables {
            let rules = |entries: &[Entry]| -> Vec<Rule> {
                entries.iter().flat_map(|entry| Rule::all(self.generation, change.table, entry)).collect()
            };
            added.extend(rules(&change.added));
            removed.extend(rules(&change.removed));
            for entry in &change.removed {
                self.failed_rules.remove(&(change.table, *entry));
            }
        }
        self.add_rules(changes);
        self.failed_removals.retain(|rule| !added.contains(rule));
        // What is of no generation in force is seen by nobody.
        let mut order = Order { seen: self.is_in_force(), written: !added.is_empty() };
        let devices = self.wanted_devices();
        if !changes.identities.is_empty() || devices != self.devices {
            order.barrier();
            self.write_identities(changes, &gone);
            revokes |= self.write_devices(devices)?;
        }
        // Prefixes of a range that only changed its size are in both.
        removed.retain(|rule| !added.contains(rule));
        if !removed.is_empty() {
            revokes = true;
            order.barrier();
            removed.into_iter().for_each(|rule| self.remove_rule(rule));
        }
        self.settle(revokes)?;
        self.metrics.change.observe(started.elapsed().as_secs_f64());
        self.measure();
        Ok(())
    }

    /// Which pods' devices there are.
    pub(crate) fn set_devices(&mut self, present: Vec<PodDevice>) -> Result<()> {
        let same = present == self.present;
        self.present = present;
        let devices = self.wanted_devices();
        if same && devices == self.devices {
            return Ok(());
        }
        let revokes = self.write_devices(devices)?;
        self.settle(revokes)
    }

    /// Is a device that is not known isolated?
    pub(crate) fn set_unknown_closed(&mut self, closed: bool) -> Result<()> {
        self.unknown_closed = closed;
        self.settle(false)
    }

    /// Tries again what could not be written.
    pub(crate) fn retry(&mut self) -> Result<()> {
        if self.is_settled() {
            return Ok(());
        }
        for prefix in std::mem::take(&mut self.failed_prefixes) {
            self.write_identity(prefix);
        }
        for (table, entry) in std::mem::take(&mut self.failed_rules) {
            self.add_entry(table, entry);
        }
        for rule in std::mem::take(&mut self.failed_removals) {
            self.remove_rule(rule);
        }
        self.settle(true)?;
        if self.is_in_force() && self.enforces() {
            let open = self.open_places(&self.devices);
            self.around.widen(&open);
        }
        self.measure();
        Ok(())
    }

    fn add_rules(&mut self, changes: &Changes) {
        for change in &changes.tables {
            for entry in &change.added {
                self.add_entry(change.table, *entry);
            }
        }
    }

    fn add_entry(&mut self, table: TableId, entry: Entry) {
        for rule in Rule::all(self.generation, table, &entry) {
            if let Err(error) = self.maps.set_rule(&rule, true) {
                self.failed_rules.insert((table, entry));
                return self.say(&error, "a rule cannot be written: what it allows is refused");
            }
        }
    }

    fn remove_rule(&mut self, rule: Rule) {
        if let Err(error) = self.maps.set_rule(&rule, false) {
            self.failed_removals.insert(rule);
            self.say(&error, "a rule cannot be removed");
        }
    }

    fn write_identities(&mut self, changes: &Changes, gone: &[Identity]) {
        for identity in gone {
            maps::forget(&mut self.maps.names, &identity.0);
        }
        for (identity, name) in &changes.names {
            // For people: without it, the number is shown.
            let _ = self.maps.names.insert(identity.0, IdentityName { text: maps::text(name) }, 0);
        }
        for prefix in changes.identities.keys() {
            self.failed_prefixes.remove(prefix);
            self.write_identity(*prefix);
        }
    }

    fn write_identity(&mut self, prefix: IpNet) {
        let identity = self.wanted.identities.get(&prefix).copied();
        let identity = identity.or((prefix == ALL_IP4).then_some(Identity::WORLD));
        if let Err(error) = self.maps.set_identity(self.generation, prefix, identity) {
            self.failed_prefixes.insert(prefix);
            self.say(&error, "an identity cannot be written");
        }
    }

    fn wanted_devices(&self) -> BTreeMap<u32, DeviceValue> {
        self.present.iter().filter_map(|device| Some((device.index, self.wanted_device(device)?))).collect()
    }

    /// `None` while no pod with one of its addresses is known.
    fn wanted_device(&self, device: &PodDevice) -> Option<DeviceValue> {
        let endpoint = |address: &IpAddr| self.wanted.endpoints.get(address).copied();
        let Endpoint { table, ingress, egress } = device.addresses.iter().find_map(endpoint)?;
        let mut value = DeviceValue { table, ..DeviceValue::default() };
        for address in &device.addresses {
            value.addresses[usize::from(address.is_ipv6())] = words(*address);
        }
        value.flags |= if ingress { device_flags::INGRESS } else { 0 };
        value.flags |= if egress { device_flags::EGRESS } else { 0 };
        Some(value)
    }

    /// Which of the pods behind these devices are not isolated in any direction: what comes to the others must be seen, for
    /// isolation, or to know an answer.
    fn open_places(&self, devices: &BTreeMap<u32, DeviceValue>) -> BTreeSet<Place> {
        let is_open = |device: &&PodDevice| devices.get(&device.index).is_some_and(|value| value.flags == 0);
        let places = |device: &PodDevice| -> Vec<Place> {
            device.addresses.iter().map(|address| (device.index, *address)).collect()
        };
        self.present.iter().filter(is_open).flat_map(places).collect()
    }

    /// True if a device that was known is another pod's now, or isolated otherwise: then flows must be judged anew.
    fn write_devices(&mut self, wanted: BTreeMap<u32, DeviceValue>) -> Result<bool> {
        // What is not in force opens and closes nothing.
        if !(self.is_in_force() && self.enforces()) {
            return self.write_each_device(wanted);
        }
        let open = self.open_places(&wanted);
        self.around.narrow(&open);
        let differs = self.write_each_device(wanted)?;
        self.around.widen(&open);
        Ok(differs)
    }

    fn write_each_device(&mut self, wanted: BTreeMap<u32, DeviceValue>) -> Result<bool> {
        let mut differs = false;
        for (index, value) in &wanted {
            let old = self.devices.get(index);
            if old != Some(value) {
                differs |= old.is_some();
                self.maps.set_device(self.generation, *index, Some(*value))?;
                self.write_pod_name(*index);
            }
        }
        for index in self.devices.keys().filter(|index| !wanted.contains_key(index)) {
            differs = true;
            self.maps.set_device(self.generation, *index, None)?;
            maps::forget(&mut self.maps.pods, index);
        }
        self.devices = wanted;
        Ok(differs)
    }

    fn write_pod_name(&mut self, index: u32) {
        let device = self.present.iter().find(|device| device.index == index);
        if let Some(pod) = device.and_then(|device| device.addresses.iter().find_map(|ip| self.pods.get(ip))) {
            let name = PodName { namespace: maps::text(&pod.namespace), name: maps::text(&pod.name) };
            let _ = self.maps.pods.insert(index, name, 0);
        }
    }

    fn flags(&self) -> u32 {
        // Without a prefix that a block names, what lies in it would be taken for what lies around it. A pod's own address
        // that is missing is taken for an address of no pod, which allows less.
        let closed = self.failed_prefixes.iter().any(|prefix| {
            prefix.prefix_len() < prefix.max_prefix_len() || !self.wanted.identities.contains_key(prefix)
        });
        let mut flags = self.state.flags & state_flags::ON;
        flags |= if closed { state_flags::CLOSED } else { 0 };
        flags | if self.unknown_closed { state_flags::UNKNOWN_CLOSED } else { 0 }
    }

    /// Ends a change: writes the flags and, if what was allowed may be so no more, the next revision: flows are judged anew.
    fn settle(&mut self, revokes: bool) -> Result<()> {
        if !self.is_in_force() {
            return Ok(());
        }
        let flags = self.flags();
        let closes = flags & !self.state.flags & state_flags::CLOSED != 0;
        if flags != self.state.flags {
            self.write_state(PolicyState { flags, ..self.state })?;
        }
        if !revokes && !closes {
            return Ok(());
        }
        let revision = self.state.revision.wrapping_add(1).max(1);
        self.write_state(PolicyState { revision, ..self.state })
    }

    /// Removes names that the former daemon left.
    fn forget_names(&mut self) {
        let stale: Vec<u32> =
            self.maps.names.keys().flatten().filter(|number| !self.uses.has(Identity(*number))).collect();
        stale.iter().for_each(|number| maps::forget(&mut self.maps.names, number));
        let stale: Vec<u32> =
            self.maps.pods.keys().flatten().filter(|index| !self.devices.contains_key(index)).collect();
        stale.iter().for_each(|index| maps::forget(&mut self.maps.pods, index));
    }

    fn write_state(&mut self, state: PolicyState) -> Result<()> {
        self.maps.set_state(state)?;
        self.state = state;
        Ok(())
    }

    /// Is what is written what the programs read?
    fn is_in_force(&self) -> bool {
        self.generation == self.state.generation
    }

    fn say(&self, error: &Error, what: &str) {
        self.metrics.failures.inc();
        // Once: a full map would repeat it for every entry.
        if self.failed() == 1 {
            tracing::error!(error = %crate::error::chain(error), "{what}; raise the size of the map; trying again");
        }
    }

    fn measure(&self) {
        self.metrics.measured(&self.wanted, self.failed());
    }
}

#[cfg(test)]
impl Programmer {
    /// How many entries the maps of devices, identities and rules have, of whatever generation.
    pub(crate) fn entries(&self) -> (usize, usize, usize) {
        (self.maps.devices.keys().count(), self.maps.identities.keys().count(), self.maps.rules.keys().count())
    }

    /// What the programs read first.
    pub(crate) fn state(&self) -> PolicyState {
        self.maps.state().unwrap()
    }
}

/// Waits where something was written that must be seen before what comes next.
struct Order {
    seen: bool,
    written: bool,
}

impl Order {
    fn barrier(&mut self) {
        if std::mem::replace(&mut self.written, true) && self.seen {
            wait_for_programs();
        }
    }
}
