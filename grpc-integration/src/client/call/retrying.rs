//! Retries: a call is sent again after it has failed (gRFC A6).

use tokio::time::{Instant, sleep};
use tracing::debug;

use super::Call;
use super::failure::{Answer, Failure};
use super::remainder::{First, Remainder};
use crate::client::retry::{Limits, Pushback, Retry};

/// Runs a call to its response, or its last failure.
pub(super) async fn retry<'a>(
    call: &'a Call,
    remainder: &mut Remainder<'a>,
    (retry, limits): (&Retry, &'a Limits),
    mut first: First,
) -> Result<Answer, Failure> {
    let mut backoff = None;
    let mut attempts = 1;
    loop {
        let failure = match remainder.run(first).await {
            Ok(answer) => return Ok(answer),
            Err(failure) => failure,
        };
        // A server that forbids retries has failed the call, whatever its code.
        let is_forbidden = failure.pushback == Some(Pushback::Stop);
        let is_retryable = failure.may_retry && retry.is_retryable(failure.code);
        if is_forbidden || is_retryable {
            limits.on_failure();
        }
        if is_forbidden || !is_retryable || attempts >= retry.max_attempts {
            return Err(failure);
        }
        let backoff = backoff.get_or_insert_with(|| retry.backoff());
        let delay = match failure.pushback {
            Some(Pushback::After(delay)) => {
                backoff.reset();
                delay
            }
            _ => backoff.next_delay(),
        };
        let is_late = call.head.deadline.is_some_and(|deadline| Instant::now() + delay >= deadline.at);
        if is_late || !call.content.rewind() {
            return Err(failure);
        }
        // Now, when the failure can still be returned.
        let Some(withdrawal) = limits.withdraw() else { return Err(failure) };
        let method = call.head.path();
        debug!(service = %call.calls.service, method, code = ?failure.code, ?delay, "call failed; retrying");
        remainder.follow(&failure, withdrawal);
        // It is in flight no longer.
        drop(failure);
        sleep(delay).await;
        attempts += 1;
        first = First::Again;
    }
}
