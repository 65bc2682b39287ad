//! Happy Eyeballs: the first address that answers wins.

use std::pin::pin;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::time::{Instant, sleep};

use super::candidates::{Candidate, Candidates};
use super::failures::Failures;

/// How long one address is tried before the next is tried beside it: the connection attempt delay of RFC 8305 and
/// gRFC A61.
const HEAD_START: Duration = Duration::from_millis(250);

/// Makes an attempt at each candidate, each with a head start before the next, which begins at once when one has
/// failed. The first success is returned, and the other attempts are dropped.
///
/// # Cancellation
/// Drops all attempts.
pub(super) async fn race<T, F>(
    mut candidates: Candidates<'_>,
    attempt: impl Fn(Candidate) -> F,
) -> Result<T, Failures>
where
    F: Future<Output = Result<T, String>>,
{
    let mut attempts = FuturesUnordered::new();
    let mut failures = Failures::default();
    let mut head_start = pin!(sleep(Duration::ZERO));
    // Whether the next candidate is due, and whether there may be one.
    let (mut due, mut more) = (true, true);
    loop {
        tokio::select! {
            biased;
            Some(ended) = attempts.next() => match ended {
                Ok(success) => return Ok(success),
                Err(failure) => {
                    failures.add(failure);
                    due = true;
                }
            },
            candidate = candidates.next(), if due && more => match candidate {
                Some(Ok(candidate)) => {
                    attempts.push(attempt(candidate));
                    due = false;
                    head_start.as_mut().reset(Instant::now() + HEAD_START);
                }
                Some(Err(failure)) => failures.add(failure),
                None => more = false,
            },
            () = head_start.as_mut(), if !due && more => due = true,
            else => return Err(failures),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use hither_core::Instance;
    use tokio::time::{Instant, sleep};

    use super::super::lookup::tests::Names;
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(10);

    /// Races the addresses `10.0.0.<n>`, where each `n` is one of `outcomes`: after how many milliseconds it succeeds,
    /// or fails. Returns the outcome, when it was, and when each attempt began.
    async fn run(outcomes: &[Result<u64, u64>]) -> (Result<usize, String>, u128, Vec<u128>) {
        let addresses = (0..outcomes.len()).map(|i| format!("10.0.0.{i}:1").parse().unwrap());
        let instance = Instance::new("10.0.0.0:1".parse().unwrap());
        let instance = addresses.fold(instance, Instance::with_address);
        let names = Names::default();
        let candidates = Candidates::of(&instance, Some(&names), TIMEOUT);
        let (began, starts) = (Instant::now(), Mutex::new(Vec::new()));
        let raced = race(candidates, |candidate| {
            starts.lock().unwrap().push(began.elapsed().as_millis());
            let index: usize =
                candidate.to_string()["10.0.0.".len()..].trim_end_matches(":1").parse().unwrap();
            let outcome = outcomes[index];
            async move {
                match outcome {
                    Ok(after) => {
                        sleep(Duration::from_millis(after)).await;
                        Ok(index)
                    }
                    Err(after) => {
                        sleep(Duration::from_millis(after)).await;
                        Err(format!("failure {index}"))
                    }
                }
            }
        });
        let outcome = raced.await.map_err(|failures| failures.to_string());
        (outcome, began.elapsed().as_millis(), starts.into_inner().unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_that_answers_is_the_only_one_that_is_tried() {
        assert_eq!(run(&[Ok(200), Ok(0)]).await, (Ok(0), 200, vec![0]));
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_that_is_slow_is_overtaken_by_the_next_and_may_still_win() {
        assert_eq!(run(&[Ok(9000), Ok(9000), Ok(100)]).await, (Ok(2), 600, vec![0, 250, 500]));
        assert_eq!(run(&[Ok(300), Ok(9000), Ok(100)]).await, (Ok(0), 300, vec![0, 250]));
    }

    #[tokio::test(start_paused = true)]
    async fn the_next_address_is_tried_at_once_when_one_has_failed() {
        let (outcome, at, starts) = run(&[Err(0), Err(10), Ok(9000), Err(20), Ok(0)]).await;
        assert_eq!((outcome, at), (Ok(4), 280));
        assert_eq!(starts, [0, 0, 10, 260, 280]);
    }

    #[tokio::test(start_paused = true)]
    async fn all_failures_are_the_error_and_come_with_the_last_one() {
        let (outcome, at, starts) = run(&[Err(10_000), Err(10), Err(10_000)]).await;
        assert_eq!(outcome.unwrap_err(), "failure 1; failure 0; failure 2");
        assert_eq!((at, starts), (10_260, vec![0, 250, 260]));
    }
}
