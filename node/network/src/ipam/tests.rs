use super::*;

/// `cidrs` with a comma between.
fn ipam(cidrs: &str) -> (tempfile::TempDir, Ipam) {
    let dir = tempfile::tempdir().unwrap();
    let cidrs: Vec<IpNet> = cidrs.split(',').map(|cidr| cidr.parse().unwrap()).collect();
    let ipam = Ipam::open(dir.path().join("ipam"), &cidrs).unwrap();
    (dir, ipam)
}

fn allocate(ipam: &Ipam, container: &str, namespace: &str) -> Result<(Lease, bool)> {
    ipam.allocate(container, "eth0", Path::new(namespace), Bandwidth::default())
}

fn take(ipam: &Ipam, container: &str) -> Result<String> {
    allocate(ipam, container, "/ns").map(|(lease, _)| lease.addresses.to_string())
}

#[test]
fn every_pod_gets_one_address_of_each_family_the_primary_first() {
    for (cidrs, first, second) in [
        ("10.0.0.0/24,fd00:1::/64", "10.0.0.2+fd00:1::2", "10.0.0.3+fd00:1::3"),
        ("fd00:1::/64,10.0.0.0/24", "fd00:1::2+10.0.0.2", "fd00:1::3+10.0.0.3"),
        ("fd00:1::/64", "fd00:1::2", "fd00:1::3"),
    ] {
        let (_dir, ipam) = ipam(cidrs);
        assert_eq!([take(&ipam, "a").unwrap(), take(&ipam, "b").unwrap()], [first, second]);
        assert_eq!(ipam.find("a", "eth0").unwrap().unwrap().addresses.to_string(), first);
        assert_eq!(ipam.release("a", "eth0").unwrap().unwrap().to_string(), first);
        assert_eq!(ipam.leases().unwrap().len(), 1);
    }
}

#[test]
fn a_family_that_is_full_leaves_nothing_of_the_other_taken() {
    let (_dir, ipam) = ipam("10.0.0.0/24,fd00:1::/126");
    for container in ["a", "b"] {
        take(&ipam, container).unwrap();
    }
    let error = take(&ipam, "c").unwrap_err().to_string();
    assert_eq!(error, "no free address in fd00:1::/126: all 2 are in use by pods of this node");
    assert!(ipam.check_room().is_err());
    assert_eq!(ipam.leases().unwrap().len(), 2);
    ipam.release("a", "eth0").unwrap();
    assert_eq!(take(&ipam, "c").unwrap(), "10.0.0.4+fd00:1::2");
}

#[test]
fn what_an_older_daemon_wrote_is_read_and_keeps_its_one_address() {
    let (_dir, ipam) = ipam("10.0.0.0/24,fd00:1::/64");
    fs::write(ipam.dir.join("10.0.0.2,old,eth0"), "/var/run/netns/old").unwrap();
    fs::write(ipam.dir.join(LAST), "10.0.0.2").unwrap();
    let old = ipam.find("old", "eth0").unwrap().unwrap();
    assert_eq!((old.addresses.to_string(), old.namespace), ("10.0.0.2".into(), "/var/run/netns/old".into()));
    assert_eq!(old.limits, Bandwidth::default());
    assert_eq!(take(&ipam, "old").unwrap(), "10.0.0.2");
    assert_eq!(take(&ipam, "new").unwrap(), "10.0.0.3+fd00:1::2");
}

#[test]
fn limits_are_kept_with_the_lease() {
    let (_dir, ipam) = ipam("10.0.0.0/24");
    let limits: Bandwidth = serde_json::from_str(r#"{"ingressRate":8000,"egressBurst":16}"#).unwrap();
    let (lease, _) = ipam.allocate("a", "eth0", Path::new("/ns"), limits).unwrap();
    assert_eq!(ipam.find("a", "eth0").unwrap(), Some(lease));
    let lease = ipam.leases().unwrap().remove(0);
    assert_eq!((lease.limits, lease.namespace.as_path()), (limits, Path::new("/ns")));
}

#[test]
fn none_three_and_two_cidrs_of_one_family_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    for cidrs in [&[][..], &["10.0.0.0/24", "10.1.0.0/24"], &["10.0.0.0/24", "fd00::/64", "fd01::/64"]] {
        let parsed: Vec<IpNet> = cidrs.iter().map(|cidr| cidr.parse().unwrap()).collect();
        assert!(Ipam::open(dir.path(), &parsed).is_err(), "{cidrs:?}");
    }
}

#[test]
fn network_gateway_and_broadcast_are_never_given_out() {
    let (_dir, ipam) = ipam("10.0.0.0/29");
    let given: Vec<_> = (0..5).map(|n| take(&ipam, &format!("c{n}")).unwrap()).collect();
    assert_eq!(given, ["10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6"]);
    let error = take(&ipam, "one-more").unwrap_err().to_string();
    assert_eq!(error, "no free address in 10.0.0.0/29: all 5 are in use by pods of this node");
}

#[test]
fn a_freed_address_is_the_last_to_be_given_out_again() {
    let (_dir, ipam) = ipam("10.0.0.0/29");
    assert_eq!(take(&ipam, "a").unwrap(), "10.0.0.2");
    assert_eq!(ipam.release("a", "eth0").unwrap(), Some("10.0.0.2".parse().unwrap()));
    let given: Vec<_> = (0..5).map(|n| take(&ipam, &format!("c{n}")).unwrap()).collect();
    assert_eq!(given, ["10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6", "10.0.0.2"]);
}

#[test]
fn asking_twice_gives_the_same_address_and_freeing_twice_is_fine() {
    let (_dir, ipam) = ipam("10.0.0.0/24");
    let (first, new) = allocate(&ipam, "a", "/ns/1").unwrap();
    assert!(new);
    let (second, new) = allocate(&ipam, "a", "/ns/2").unwrap();
    assert!(!new);
    assert_eq!(first.addresses, second.addresses);
    assert_eq!(ipam.leases().unwrap(), std::slice::from_ref(&second));
    assert_eq!(ipam.find("a", "eth0").unwrap(), Some(second));
    assert_ne!(take(&ipam, "b").unwrap(), first.addresses.to_string());
    assert!(ipam.release("a", "eth0").unwrap().is_some());
    assert!(ipam.release("a", "eth0").unwrap().is_none());
}

#[test]
fn leases_survive_and_a_broken_cursor_does_no_harm() {
    let (_dir, ipam) = ipam("10.0.0.0/24");
    take(&ipam, "a").unwrap();
    fs::write(ipam.dir.join(LAST), "\0nonsense").unwrap();
    fs::write(ipam.dir.join(".1.1.tmp10.0.0.9,x,eth0"), "left by a crash").unwrap();
    let again = Ipam::open(ipam.dir.clone(), &["10.0.0.0/24".parse().unwrap()]).unwrap();
    assert_eq!(take(&again, "b").unwrap(), "10.0.0.3");
    assert_eq!(again.leases().unwrap().len(), 2);
}

#[test]
fn a_cidr_without_room_and_ids_that_are_no_file_names_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    for cidr in ["10.0.0.0/31", "10.0.0.0/32", "fd00::/127"] {
        assert!(Ipam::open(dir.path(), &[cidr.parse().unwrap()]).is_err(), "{cidr}");
    }
    let (_dir, ipam) = ipam("10.0.0.0/30");
    for container in ["", "../x", "a,b", "-a", "a/b", &"x".repeat(151)] {
        assert!(take(&ipam, container).is_err(), "{container}");
    }
    for interface in ["", "a/b", "a,b", "..", "sixteen-letters-", "a b"] {
        assert!(ipam.allocate("c", interface, Path::new("/ns"), Bandwidth::default()).is_err(), "{interface}");
    }
    assert!(allocate(&ipam, "c", "/n\ns").is_err());
    assert_eq!(take(&ipam, "c").unwrap(), "10.0.0.2");
}

#[test]
fn takers_at_once_never_share_an_address() {
    let (_dir, ipam) = ipam("10.0.0.0/24");
    let given: Vec<String> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|thread| {
                let ipam = &ipam;
                scope.spawn(move || {
                    (0..25)
                        .map(|n| {
                            let container = format!("c{thread}-{n}");
                            // Some give back and take again in between.
                            if n % 3 == 0 {
                                take(ipam, &container).unwrap();
                                ipam.release(&container, "eth0").unwrap();
                            }
                            take(ipam, &container).unwrap()
                        })
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(given.iter().collect::<HashSet<_>>().len(), 200);
    assert_eq!(ipam.leases().unwrap().len(), 200);
}
