//! Ejections beside what else decides where calls go: tiers and hedges.

use hither_tonic::{DiscoveryChannel, OutlierDetection, Selection};
use tokio::time::sleep;

use crate::support::{Client, Net, Registry, Server};
use crate::{SECOND, channel};

/// The addresses of the instances that are ejected or being tried.
fn ejected(channel: &DiscoveryChannel) -> Vec<String> {
    let status = channel.status();
    let ejected = status.instances().iter().filter(|instance| instance.ejected().is_some());
    ejected.map(|instance| instance.instance().address().to_string()).collect()
}

/// Of five instances in three tiers one may be ejected. Its tier has no other, so the next tier takes over, whose only one
/// fails too: without the maximum all calls would come to the last tier.
#[tokio::test(start_paused = true)]
async fn the_share_that_may_be_ejected_is_of_all_tiers_together() {
    let (mut registry, net) = (Registry::new(), Net::new());
    let servers = ["a:1", "b:1", "c:1"].map(|address| Server::on(&net, address));
    // Those that are down give their tier half of the calls that it would have, and more.
    for address in ["a:1", "a:2", "b:1", "b:2", "c:1"] {
        registry.up(address).await;
    }
    let tier = |instance: &hither_core::Instance| u32::from(instance.address().to_string().as_bytes()[0]);
    let detection = OutlierDetection::default().with_base_ejection_time(1000 * SECOND);
    let builder =
        channel(&registry, &net).selection(Selection::default().tiers(tier)).outlier_detection(detection);
    let channel = builder.connect().await.unwrap();
    let client = Client::new(&channel);
    sleep(SECOND).await;
    let load = async |seconds: usize| {
        for _ in 0..seconds {
            for _ in 0..20 {
                let _ = client.call("Faulty", String::new()).await;
            }
            sleep(SECOND).await;
        }
    };
    load(5).await;
    let [a, b, c] = servers.each_ref().map(Server::calls);
    assert!(a > b && b > 10 && c == 0, "{a} {b} {c}");
    servers[0].open_gate();
    load(5).await;
    assert_eq!(ejected(&channel), ["a:1"]);
    servers[1].open_gate();
    load(60).await;
    assert_eq!(ejected(&channel), ["a:1"]);
    assert!(servers[1].calls() > 600, "it has its share of the calls still");
    // Its place is free when it has left. What may not be ejected is looked at once in an interval.
    registry.leave("a:1").await;
    load(10).await;
    assert_eq!(ejected(&channel), ["b:1"]);
}
