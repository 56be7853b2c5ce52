//! Clusters that outgrow the maps.

use super::*;

/// Takes over larger maps as long as something waits for them.
async fn take_over_all(keeper: &mut Keeper) {
    while keeper.room.comes() {
        let growth = tokio::time::timeout(Duration::from_secs(120), keeper.room.ready()).await.unwrap();
        keeper.use_room(growth).await;
    }
}

async fn list(keeper: &mut Keeper, services: u8) {
    let name = |n: u8| format!("s{n}");
    list_services(keeper, (0..services).map(|n| service(&name(n), &format!("10.96.1.{n}"), &[80]))).await;
    list_slices(keeper, (0..services).map(|n| slice(&name(n), &["10.1.0.1", "10.1.0.2"]))).await;
}

#[tokio::test]
async fn maps_that_fill_up_become_larger_and_what_found_no_room_is_served() {
    let ground = Ground::new();
    let mut keeper = ground.keeper();
    keeper.room = Room::new(&ground.dir.path().join("bpf"), Some(MapSizes::MOST), 0);
    list(&mut keeper, 200).await;
    assert_eq!((ground.served().len(), keeper.failed.len()), (16, 184), "what has room is served at once");
    take_over_all(&mut keeper).await;
    assert_eq!((ground.served().len(), keeper.failed.len()), (200, 0));
    let wrong: Vec<_> = ground.served().into_iter().filter(|line| !line.ends_with("10.1.0.1,10.1.0.2")).collect();
    assert_eq!(wrong, [""; 0]);
    assert_eq!(keeper.metrics.growths.get(), 1, "all that was seen got room at once");
    assert!(keeper.programmer.fill().iter().all(|fill| fill.used * 2 <= fill.capacity));
    assert_eq!(keeper.programmer.check().unwrap(), 0);
    // Changes go to the new maps.
    keeper.slice_event(Event::Apply(slice("s7", &["10.1.0.9"]))).await;
    assert!(ground.served().contains(&"s7 10.96.1.7:80 10.1.0.9".to_owned()));
}

#[tokio::test]
async fn at_the_ceiling_the_rest_is_served_and_counted_and_a_removal_makes_room() {
    let ground = Ground::new();
    let mut keeper = ground.keeper();
    let most = MapSizes { services: 32, ..MapSizes::MOST };
    keeper.room = Room::new(&ground.dir.path().join("bpf"), Some(most), 0);
    list(&mut keeper, 40).await;
    take_over_all(&mut keeper).await;
    assert_eq!((ground.served().len(), keeper.failed.len()), (32, 8));
    let mut registry = prometheus_client::registry::Registry::default();
    keeper.metrics.register(&mut registry);
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    let count = text.lines().find_map(|line| line.strip_prefix("skep_proxy_map_ceilings_total{map=\"SERVICES\"} "));
    assert!(count.unwrap().parse::<u64>().unwrap() > 0, "{text}");

    let served = ground.served();
    let (one, _) = served[0].split_once(' ').unwrap();
    let gone = service(one, "10.96.1.0", &[80]);
    keeper.service_event(Event::Delete(gone)).await;
    let again: Vec<Owner> = keeper.failed.iter().cloned().collect();
    keeper.serve(again).await;
    assert_eq!((ground.served().len(), keeper.failed.len()), (32, 7));
}
