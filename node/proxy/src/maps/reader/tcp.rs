//! What TCP connections to Services come to, watched for as long as somebody looks.

use std::{collections::HashMap, fs::File};

use aya::{
    Ebpf, EbpfLoader,
    maps::{MapData, PerCpuHashMap},
    programs::{CgroupAttachMode, SockOps},
};
use skep_ebpf_common::tcp::TcpTotals;

use super::Reader;
use crate::{
    Error, Result, bpffs, cgroup,
    object::{Link, PROGRAMS},
};

static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("SKEP_TCP_OBJECT"));

const PROGRAM: &str = "watch_tcp";
const TOTALS: &str = "TCP_TOTALS";

/// A program beside the socket hooks that counts what the connections of this node's sockets to Services do, from when they
/// begin. It is detached when this is dropped, or when the process ends.
pub struct TcpWatch {
    // Holds the program and its link.
    _ebpf: Ebpf,
    totals: PerCpuHashMap<MapData, u32, TcpTotals>,
}

impl std::fmt::Debug for TcpWatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TcpWatch").finish_non_exhaustive()
    }
}

impl Reader {
    /// Begins to count.
    ///
    /// # Errors
    /// When the socket hooks are attached to no living cgroup, or the kernel refuses the program (it takes 5.10 and the
    /// privileges of the node itself).
    pub fn watch_tcp(&self) -> Result<TcpWatch> {
        let failed = |source| Error::Program { name: PROGRAM, source };
        let root = cgroup::by_id(self.cgroup_id()?)?;
        let folder = File::open(&root).map_err(Error::io(format!("open cgroup {}", root.display())))?;
        let mut loader = EbpfLoader::new();
        loader.btf(None);
        for name in ["FRONTENDS", "TCP_PEERS"] {
            loader.map_pin_path(name, self.paths.maps.join(name));
        }
        let mut ebpf = loader.load(OBJECT)?;
        let totals = ebpf.take_map(TOTALS).ok_or_else(|| Error::Object(format!("map {TOTALS}")))?;
        let totals = totals.try_into().map_err(Error::map(TOTALS))?;
        let program = ebpf.program_mut(PROGRAM).ok_or_else(|| Error::Object(format!("program {PROGRAM}")))?;
        let program: &mut SockOps = program.try_into().map_err(failed)?;
        program.load().map_err(failed)?;
        // A link always allows others beside it; the kernel refuses to be told so.
        program.attach(folder, CgroupAttachMode::Single).map_err(failed)?;
        Ok(TcpWatch { _ebpf: ebpf, totals })
    }

    /// The cgroup whose sockets are served.
    fn cgroup_id(&self) -> Result<u64> {
        let links = bpffs::pins(&self.paths.links)?;
        let ids = links.iter().filter(|path| is_of_sockets(path)).filter_map(|path| Some(Link::read(path)?.cgroup_id));
        ids.into_iter().find(|id| *id != 0).ok_or(Error::NoCgroup)
    }
}

fn is_of_sockets(link: &std::path::Path) -> bool {
    let name = link.file_name().and_then(|name| name.to_str()).and_then(|name| name.split('-').next());
    name.is_some_and(|name| PROGRAMS.contains(&name))
}

impl TcpWatch {
    /// What has been counted so far, by the service port's number.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn totals(&self) -> Result<HashMap<u32, TcpTotals>> {
        let mut all = HashMap::new();
        for entry in self.totals.iter() {
            let (service, cpus) = entry.map_err(Error::map(TOTALS))?;
            all.insert(service, cpus.iter().fold(TcpTotals::default(), sum));
        }
        Ok(all)
    }
}

fn sum(a: TcpTotals, b: &TcpTotals) -> TcpTotals {
    TcpTotals {
        opened: a.opened + b.opened,
        closed: a.closed + b.closed,
        sent: a.sent + b.sent,
        received: a.received + b.received,
        retransmits: a.retransmits + b.retransmits,
        rtt_sum: a.rtt_sum + b.rtt_sum,
        rtts: a.rtts + b.rtts,
    }
}
