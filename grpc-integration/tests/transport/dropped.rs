//! Calls that are dropped at any moment: each of the others gets its own answer.

use std::future::pending;
use std::pin::pin;

use tokio::task::{JoinSet, yield_now};
use tonic::{Request, Status};

use super::support::{Client, Server};
use super::{client, soon};

const TASKS: usize = 8;
const CALLS: usize = 100;

/// Makes a call whose answer is this number.
async fn call(client: &Client, number: usize) -> Result<usize, Status> {
    let mut request = Request::new("number".to_owned());
    request.metadata_mut().insert("number", number.into());
    Ok(client.call("Metadata", request).await?.into_inner().parse().unwrap())
}

/// Makes calls one after the other, and drops half of them after so many turns of the scheduler. Returns how many were
/// answered.
async fn drop_some(client: Client, task: usize) -> usize {
    let mut random = fastrand::Rng::with_seed(task as u64);
    let mut answered = 0;
    for number in (task * CALLS)..((task + 1) * CALLS) {
        let turns = random.bool().then(|| random.usize(0..20));
        let call = pin!(call(&client, number));
        let dropped = async {
            let Some(turns) = turns else { return pending().await };
            for _ in 0..turns {
                yield_now().await;
            }
        };
        tokio::select! {
            biased;
            answer = call => {
                assert_eq!(answer.unwrap(), number);
                answered += 1;
            }
            () = dropped => {}
        }
    }
    answered
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_calls_beside_dropped_ones_get_their_own_answers() {
    let servers = [Server::start().await, Server::start().await];
    let (_registry, client) = client(&[&servers[0].address, &servers[1].address]).await;
    let mut tasks = JoinSet::new();
    for task in 0..TASKS {
        tasks.spawn(drop_some(client.clone(), task));
    }
    let answered: usize = soon("the calls", tasks.join_all()).await.into_iter().sum();
    let arrived = servers.iter().map(Server::calls).sum();
    assert!(answered < arrived, "of {arrived} none was dropped after it was sent");
    assert!(arrived < TASKS * CALLS, "none was dropped before it was sent");
}
