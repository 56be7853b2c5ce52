use std::fs;

use skep_proxy::{Attachment, Error, Protocol::Tcp, Proxy, maps::Reader};

use crate::{
    agent::{Agent, Request},
    ground::{Ground, Network, VIP, apply, backend, entry},
    maps::expect_exactly,
};

fn all(proxy: &Proxy, wanted: Attachment) -> bool {
    proxy.attachments().iter().all(|(_, attachment)| *attachment == wanted)
}

#[test]
fn a_killed_daemon_leaves_everything_serving_and_its_successor_takes_over() {
    let mut network = Network::new(2);
    let ground = &network.ground;
    let mut daemon = Agent::start(None, None);
    let request = Request::Load {
        churn: false,
        bpf_root: ground.bpf_root(),
        cgroup: ground.cgroup.clone(),
        vip: VIP,
        backends: vec![backend(0), backend(1)],
    };
    // The daemon's mount lives in this mount namespace, which it shares with the test.
    daemon.ask(&request);
    assert!(matches!(Proxy::load(ground.config()), Err(Error::Busy(_))));
    network.client.ask(&Request::StartTcp { to: VIP.into(), threads: 1 });
    daemon.kill();
    network.client.tcp(VIP, 100).expect_no_failure();

    let mut successor = network.ground.load();
    assert!(all(&successor, Attachment::Kept));
    assert!(!apply(&mut successor, VIP, Tcp, [1, 0]));
    network.client.tcp(VIP, 100).expect_no_failure();
    network.client.ask(&Request::StopTcp).expect_no_failure();
}

#[test]
fn a_daemon_killed_in_the_middle_of_changes_leaves_a_service_that_works_and_no_debris() {
    let mut network = Network::new(8);
    apply(&mut network.ground.load(), VIP, Tcp, 0..8);
    network.client.ask(&Request::StartTcp { to: VIP.into(), threads: 1 });
    for _ in 0..8 {
        let mut daemon = Agent::start(None, None);
        daemon.ask(&Request::Load {
            churn: true,
            bpf_root: network.ground.bpf_root(),
            cgroup: network.ground.cgroup.clone(),
            vip: VIP,
            backends: (0..8).map(backend).collect(),
        });
        network.client.tcp(VIP, 50).expect_no_failure();
        daemon.kill();
        network.client.tcp(VIP, 50).expect_no_failure();
        // The successor finds whole services, or makes them so.
        let table = [entry(VIP, Tcp, 0..3)].into();
        network.ground.load().sync(&table).unwrap();
        expect_exactly(&network.ground, &table);
    }
    network.client.ask(&Request::StopTcp).expect_no_failure();
}

#[test]
fn restarts_and_exchanged_programs_lose_no_connection() {
    let mut network = Network::new(2);
    let mut proxy = network.ground.load();
    apply(&mut proxy, VIP, Tcp, 0..2);
    network.client.ask(&Request::StartTcp { to: VIP.into(), threads: 2 });
    for n in 0..20 {
        drop(proxy);
        if n % 2 == 1 {
            // What runs cannot be told to be the same any more, as after an upgrade: all programs are exchanged.
            let pins = network.ground.bpf_root().join("v3/programs");
            fs::read_dir(pins).unwrap().for_each(|pin| fs::remove_file(pin.unwrap().path()).unwrap());
        }
        proxy = network.ground.load();
        assert!(all(&proxy, if n % 2 == 1 { Attachment::Attached } else { Attachment::Kept }), "{n}");
        assert!(!apply(&mut proxy, VIP, Tcp, 0..2));
    }
    let answer = network.client.ask(&Request::StopTcp);
    let connects: usize = answer.expect_no_failure().from.values().sum();
    assert!(connects > 20, "only {connects} connects met the restarts");
    // One link each, none left behind.
    assert_eq!(fs::read_dir(network.ground.bpf_root().join("v3/links")).unwrap().count(), 8);
    assert_eq!(fs::read_dir(network.ground.bpf_root().join("v3/programs")).unwrap().count(), 8);
}

#[test]
fn maps_of_another_layout_serve_until_the_new_ones_are_filled() {
    let mut network = Network::new(2);
    let root = network.ground.bpf_root();
    let mut former = network.ground.load();
    apply(&mut former, VIP, Tcp, 0..1);
    fs::rename(root.join("v3"), root.join("v0")).unwrap();
    assert!(matches!(Reader::open(&root), Err(Error::OtherLayout(_, version)) if version == "v0"));
    // Its daemon still runs.
    assert!(matches!(Proxy::load(network.ground.config()), Err(Error::Busy(_))));
    drop(former);

    network.client.ask(&Request::StartTcp { to: VIP.into(), threads: 1 });
    let mut proxy = network.ground.load();
    assert!(all(&proxy, Attachment::Attached));
    network.client.tcp(VIP, 50).expect_no_failure();
    proxy.sync(&[entry(VIP, Tcp, 1..2)].into()).unwrap();
    assert!(!root.join("v0").exists());
    // The kernel detaches a program whose pin went a little later.
    let wanted = vec![backend(1).to_string()];
    let give_up = std::time::Instant::now() + std::time::Duration::from_secs(30);
    let mut answers = std::iter::from_fn(|| (std::time::Instant::now() < give_up).then_some(()))
        .map(|()| network.client.tcp(VIP, 50).expect_no_failure().from.clone().into_keys());
    assert!(answers.any(|from| from.collect::<Vec<_>>() == wanted));
    network.client.ask(&Request::StopTcp).expect_no_failure();
}

#[test]
fn another_cgroup_gets_programs_of_its_own() {
    let first = Ground::new();
    let second = Ground::new();
    drop(first.load());
    let mut config = first.config();
    config.cgroup_root = Some(second.cgroup.clone());
    let proxy = Proxy::load(config).unwrap();
    assert!(all(&proxy, Attachment::Attached));
    let status = first.reader().status().unwrap();
    let inode = std::os::unix::fs::MetadataExt::ino(&fs::metadata(&second.cgroup).unwrap());
    assert!(status.programs.iter().all(|program| program.cgroup_id == Some(inode)), "{status:?}");
    drop(proxy);
}

#[test]
fn cleanup_leaves_nothing_and_may_be_repeated() {
    let ground = Ground::new();
    let root = ground.bpf_root();
    let proxy = ground.load();
    assert!(matches!(Proxy::cleanup(&root), Err(Error::Busy(_))));
    drop(proxy);
    Proxy::cleanup(&root).unwrap();
    assert_eq!(fs::read_dir(&root).unwrap().count(), 0);
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(root.to_str().unwrap()));
    Proxy::cleanup(&root).unwrap();
    assert!(matches!(Reader::open(&root), Err(Error::NotLoaded(_))));
}

#[test]
fn status_names_every_program_and_map() {
    let ground = Ground::new();
    let _proxy = ground.load();
    let status = ground.reader().status().unwrap();
    assert_eq!(status.programs.len(), 8);
    assert!(status.programs.iter().all(|program| program.attached && program.id.is_some()), "{status:?}");
    assert!(status.maps.iter().all(|map| map.entries == 0 && map.capacity > 0), "{status:?}");
}

#[test]
fn a_folder_that_is_no_cgroup_is_refused_with_its_name() {
    let ground = Ground::new();
    let mut config = ground.config();
    config.cgroup_root = Some("/tmp".into());
    let error = Proxy::load(config).unwrap_err();
    assert_eq!(error.to_string(), "/tmp is not a cgroup of a cgroup2 file system");
}

#[test]
fn roots_inside_a_mounted_file_system_share_it_and_leave_it() {
    let ground = Ground::new();
    let proxy = ground.load();
    let mut config = ground.config();
    config.bpf_root = ground.bpf_root().join("nested/root");
    let nested = config.bpf_root.clone();
    drop(Proxy::load(config).unwrap());
    Reader::open(&nested).unwrap();
    Proxy::cleanup(&nested).unwrap();
    assert!(!nested.exists());
    assert_eq!(ground.reader().status().unwrap().programs.len(), 8);
    fs::remove_dir(nested.parent().unwrap()).unwrap();
    drop(proxy);
}

#[test]
fn nodes_that_start_together_mount_one_file_system() {
    let grounds: Vec<Ground> = (0..4).map(|_| Ground::new()).collect();
    let roots: Vec<_> = (0..4).map(|n| format!("/sys/fs/bpf/skep-test-{}-{n}", std::process::id()).into()).collect();
    let load = |ground: &Ground, root: &std::path::PathBuf| {
        let mut config = ground.config();
        config.bpf_root.clone_from(root);
        drop(Proxy::load(config).unwrap());
    };
    std::thread::scope(|scope| {
        for (ground, root) in grounds.iter().zip(&roots) {
            scope.spawn(move || load(ground, root));
        }
    });
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let stacked = mounts.lines().filter(|line| line.split(' ').nth(4) == Some("/sys/fs/bpf")).count();
    let opened: Vec<bool> = roots.iter().map(|root| Reader::open(root).is_ok()).collect();
    roots.iter().for_each(|root| Proxy::cleanup(root).unwrap());
    assert_eq!((stacked, opened), (1, vec![true; 4]));
}
